"""The YAML of a first job, with its fields explained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from qcrd.cli.init.columns import Source

SCHEMA_URL = "http://127.0.0.1:8000/v1/spec.schema.json"
"""For editors, which then complete and check fields while `qcrd up` runs."""
EXPLAINED = {
    "label": "one of `labels`, compared by name",
    "choice": "one of the question's own `choices`: its letter, its number or its text",
    "number": "a number, compared by value: 1/2 is 0.5",
    "math": "a formula, compared by value",
    "text": "a text, compared word for word but for case and white space",
}


@dataclass(frozen=True)
class JobDraft:
    model: str
    training_file: str
    answer: str
    labels: list[str] = field(default_factory=list)
    fields: dict[str, Source] = field(default_factory=dict)
    validation_file: str | None = None
    test_file: str | None = None
    has_outputs: bool = False
    answers: str = "auto"
    """`rationales.answers`, where outputs are imported."""
    label_mode: str = "gold"
    max_label_tokens: int | None = None
    """None: the default is enough."""
    has_new_decoder: bool = False
    """Whether the base is an encoder, to which a decoder is added."""


def render(draft: JobDraft, method: str = "qcrd") -> str:
    return "\n".join(_iter_lines(draft, method)) + "\n"


def _iter_lines(draft: JobDraft, method: str) -> Iterator[str]:
    yield f"# yaml-language-server: $schema={SCHEMA_URL}"
    yield "# Follow it with `qcrd run`; `qcrd estimate` says first what it would cost."
    yield f"model: {_flow(draft.model)}  # the base of the student: a folder or a model of a hub"
    yield f"training_file: {_flow(draft.training_file)}"
    if draft.validation_file is not None:
        yield f"validation_file: {_flow(draft.validation_file)}  # chooses the best iteration"
    if draft.test_file is not None:
        yield f"test_file: {_flow(draft.test_file)}  # only for the report's accuracies"
    yield "seed: 0"
    yield "method:"
    yield f"  type: {method}"
    yield f"  {method}:"
    yield "    task:"
    yield f"      answer: {draft.answer}  # {EXPLAINED[draft.answer]}"
    if draft.answer == "label":
        yield f"      labels: {_flow(draft.labels)}"
    if draft.fields:
        yield "      fields:  # which columns are what; {…} puts columns into a text"
        for name, source in draft.fields.items():
            yield f"        {name}: {_flow(source)}"
    yield '      instruction: ""  # what a teacher is told before each question'
    if draft.label_mode != "gold":
        yield f"    label_mode: {draft.label_mode}  # no record has a label: the teacher's vote is"
    yield "    rationales:"
    if draft.has_outputs:
        yield f"      import: {_flow(draft.training_file)}  # its outputs: no teacher is asked"
        explained = "label: they explain their labels; parse: each marks its answer"
        yield f"      answers: {draft.answers}  # {explained}"
    else:
        yield "      n: 5  # outputs of the teacher per question, among which the vote decides"
        yield "      max_new_tokens: 256  # of each output; what reasons first needs more"
    yield "    hyperparameters:"
    yield "      iterations: 10  # each ends in a validation; the best one is kept"
    if draft.has_new_decoder:
        yield "      learning_rate: 1.0e-3  # of the new decoder, which begins from nothing"
        yield "      encoder_learning_rate: 1.0e-4  # of the base; others are trained at 5e-5"
        yield "      warmup_steps: 5"
    if draft.max_label_tokens is not None:
        yield f"      max_label_tokens: {draft.max_label_tokens}  # of the longest label"
    if method != "finetune":
        yield "    baselines: [finetune]  # trained beside it, for the comparison"


def _flow(value: Any) -> str:
    """A value in YAML's flow style, on one line."""
    if isinstance(value, str) and "\n" in value:
        return json.dumps(value, ensure_ascii=False)  # on one line, as YAML reads it too
    text = yaml.safe_dump(value, default_flow_style=True, width=1_000_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()
