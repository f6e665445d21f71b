"""How a job gets its rationales: how its teacher is asked, or which outputs are imported."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictBool

from qcrd.records.base import Record

DEFAULT_STOP = ("\n\n",)
"""It ends the answer to a completion prompt, whose examples have blank lines between them. A chat
ends by itself."""


class RationaleSpec(Record):
    n: Annotated[int, Field(ge=1, le=64)] = 5
    """Outputs per training question, among which the vote decides (section 3.2 of the paper)."""
    temperature: Annotated[float, Field(ge=0, le=5)] = 0.7
    """Of the teacher's sampling; 0 is greedy, and all outputs of a question are equal."""
    top_p: Annotated[float | None, Field(gt=0, lt=1)] = None
    """Nucleus sampling; None: the whole distribution, as in the paper."""
    max_new_tokens: Annotated[int, Field(ge=1, le=8192)] = 256
    """Of an output; a teacher that reasons first needs more."""
    stop: Annotated[tuple[str, ...], Field(max_length=4)] = DEFAULT_STOP
    """Where an output ends; of imported outputs where they are cut, unless it is the default."""
    prompt: Literal["auto", "completion", "chat"] = "auto"
    """Whether the teacher continues a text or replies in a chat; `auto`: by what it is."""
    format: Literal["auto", "tags", "json", "free"] = "auto"
    """How the teacher writes its answer: behind tags, which a grammar enforces where the teacher
    has grammars, or, in a chat, as JSON of a schema. `auto`: JSON where the provider is known to
    enforce schemas. `free`: behind tags, and nothing enforces them."""
    source: Annotated[Literal["auto", "explanation", "reasoning"], Field(alias="from")] = "auto"
    """What of a reasoning teacher's output the student learns: the explanation that it gives, or
    the reasoning before it; `auto`: the explanation, where there is one."""
    positive_rule: Literal["majority", "gold", "majority_and_gold", "all"] = "majority"
    """Which rationales are positives: those whose answer is the majority's, the gold label's, or
    both; the others are the teacher's negatives. `all`: every one, whatever its answer."""
    import_file: Annotated[str | None, Field(alias="import")] = None
    """Id of a file of existing teacher outputs, which replace generation."""
    answers: Literal["auto", "label", "parse", "last"] = "auto"
    """The answer of an imported text. `label`: the line's label, which it explains; `parse`: what
    it marks as its answer; `last`: the last value in it that is one. `auto`: `label` for texts
    under `rationales`, `parse` for those under `teacher_output`, `teacher_outputs`, `outputs`."""
    imported_answer: Literal["parsed", "label"] = "parsed"
    """The older spelling of `answers`, for records that have it."""
    max_unreadable_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the outputs without a readable answer above which the job ends before it trains."""
    test_samples: Annotated[int, Field(ge=0, le=64)] = 1
    """Samples per test question for the teacher's own row in the report; 0 leaves it out."""
    batch: StrictBool | None = None
    """Whether the teacher is asked by batch; None: as its configuration says."""
    max_failed_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of the questions asked that the teacher may refuse (too long, filtered) before the job
    pauses; two may be in any case."""
