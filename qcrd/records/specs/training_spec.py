"""How a job trains: negatives, judge, loss, student and hyperparameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, model_validator

from qcrd.records.base import Record


class NegativeSource(StrEnum):
    STUDENT_LAG = "student_lag"
    TEACHER_MINORITY = "teacher_minority"
    FIXED = "fixed"


class PositiveSpec(Record):
    """Which rationales are taught."""

    source: Literal["teacher", "student"] = "teacher"
    """`student`: none of the teacher's, but the student's own samples whose answer is right, which
    `negatives` asks for and `negatives.keep_right` keeps (STaR, Zelikman et al. 2022)."""
    select: Literal["all", "difficulty"] = "all"
    """`difficulty`: of each question those behind which the untrained student gives the label most
    probably, near repetitions last (after MoRSD, Yan et al. 2025): a pass before the training."""
    keep: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share that `difficulty` keeps of each question's, at least one."""


class NegativeSpec(Record):
    source: tuple[NegativeSource, ...] = (NegativeSource.STUDENT_LAG,)
    """Where negatives come from: samples of the student as it was `lag` iterations ago, the
    teacher's minority, or one given checkpoint."""
    lag: Annotated[int, Field(ge=1, le=100)] = 5
    """Iterations between the student that is trained and the one that samples negatives."""
    temperature: Annotated[float, Field(gt=0, le=5)] | Literal["auto"] = 1.5
    """τ of that sampling. `auto`: the highest of .5, .7, .85, 1, 1.2 and 1.5 at which at least a
    quarter of the samples that are not right are usable, and half of those below δ, measured on 128
    questions every five iterations."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the probability that is drawn from; 1 is the whole distribution."""
    filter: Literal["none", "wrong_only"] = "none"
    """`wrong_only` keeps the samples whose answer is another than the label, or the vote where
    there is none; what breaks off or has no answer is dropped and counted. A right chain of thought
    is no negative. Of a student that answers behind its rationale it is always so, and a vote must
    be at least 4 of 5."""
    keep_right: StrictBool = False
    """Samples that are sorted by their answer and have the right one are further positives of their
    question, in the iteration that they were sampled for."""
    control: Literal["none", "other_question"] = "none"
    """What takes the place of a question's negatives, to see what their content is worth: those of
    other questions, of eight the one that the student finds as likely as what it replaces."""
    n: Annotated[int, Field(ge=1, le=16)] = 1
    """Negatives per question and step."""
    checkpoint: str | None = None
    """For `fixed`: a finished model of the student's architecture. None: the untrained student."""

    @model_validator(mode="before")
    @classmethod
    def wrap_single_source(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("source"), str):
            return {**data, "source": (data["source"],)}
        return data


class JudgeSpec(Record):
    """The quality judge D. `encoder` None means the student's own base model."""

    encoder: str | None = None
    """Base of the judge's encoder."""
    control: Literal["none", "constant", "shuffled", "gold"] = "none"
    """What takes the place of its scores, to see what they are worth: .5 for every rationale, its
    own scores of other rationales, or whether the answer is the label's. The first and the last ask
    no judge."""
    hidden: Annotated[int, Field(ge=1, le=8192)] = 256
    """Width of the layer on top of it."""
    loss: Literal["paper", "bce", "infonce"] = "paper"
    """`paper` is eq. 2; `bce` and `infonce` are other objectives on the same pairs."""
    pretrain_steps: Annotated[int, Field(ge=0, le=500)] = 500
    """Optimizer steps on the teacher's positives and negatives before training begins."""
    update_steps: Annotated[int, Field(ge=1, le=500)] = 8
    """Optimizer steps after each iteration, on the student's newest samples."""
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 16
    """Pairs per step."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4
    """Of the judge's own optimizer."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Of the judge's AdamW, on its matrices: norms and biases have none."""
    max_tokens: Annotated[int, Field(ge=8, le=8192)] = 256
    """Of question and rationale together, as the judge reads them."""


class ManyToOneScheme(StrEnum):
    MIN_MAX = "min_max"
    MAX_MIN = "max_min"
    SAMPLING = "sampling"
    MEAN = "mean"
    WEIGHTED_MEAN = "weighted_mean"


class OverPositive(Record):
    """A margin that travels between tokenizers: relative to what the student gives a positive."""

    over_positive: Annotated[float, Field(gt=0)]
    """Nats per token."""


class LossSpec(Record):
    """Weights of eqs 3 and 8, margin of eq. 7, many-to-one scheme of Table 5."""

    alpha: tuple[
        Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]
    ] = (0.5, 0.5, 0.5)
    """α1, α2, α3: weights of the label, the contrast and the judge (eq. 8)."""
    alpha3_decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Factor of α3 per iteration."""
    beta: Annotated[float, Field(ge=0)] = 0.2
    """β: weight of the negative term (eq. 3)."""
    delta: Annotated[float, Field(gt=0)] | OverPositive = 3.0
    """δ: the cross entropy, in nats per token, from which on a negative no longer acts (eq. 7);
    `{over_positive: c}` is c above that of the positive which was picked for the question."""
    contrast: Literal["margin", "unlikelihood", "dpo"] = "margin"
    """What is done with a negative: `margin` is eq. 7; `unlikelihood` lowers the probability of
    each of its tokens (Welleck et al. 2020), weighed by the judge as in eq. 7 and without a margin;
    `dpo` prefers the picked positive to it over the untrained student (Rafailov et al. 2023),
    without the judge's weight. All beside the positive term, weighed by β."""
    dpo_beta: Annotated[float, Field(gt=0)] = 0.1
    """Of `dpo`: how far the student may leave the untrained one."""
    scheme: ManyToOneScheme = ManyToOneScheme.MIN_MAX
    """How several rationales of a question become one term (Table 5); `min_max` is eqs 6 and 7."""
    contrast_normaliser: Literal["all", "with_positives"] = "with_positives"
    """N of eq. 3: all questions of a step, as in the paper, or those that have a rationale of
    either side, so that a few of them weigh no less beside many without."""


class LoraSpec(Record):
    """Low-rank adapters (Hu et al. 2021) on every linear layer but the output head; the rest is
    frozen. They are merged into the published student."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """Of the two factors."""
    alpha: Annotated[int, Field(ge=1)] = 32
    """Scale of their product, divided by the rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """On the adapters' input."""


StudentAnswers = Literal["label", "reasoned", "both"]
"""`label`: the label under one prefix, a rationale under another. `reasoned`: the rationale, a
mark, and the answer, in one output. `both`: the label under the one, all of it under the other."""


class StudentSpec(Record):
    """How a base checkpoint becomes a student. `decoder_layers` and `freeze` are only read for
    encoder-only bases (BERT-like), around which an encoder-decoder with a new decoder is built."""

    answers: StudentAnswers = "label"
    """What a student of a method with rationales says: `label` the label and, when asked for it, a
    rationale; `reasoned` its rationale first and the answer that follows from it; `both` either. A
    job that names none and whose base has a decoder is created with `reasoned`."""
    prompt: Literal["plain", "chat", "auto"] = "plain"
    """How the student is asked: `plain` text, a turn of its base's own `chat` template, or `auto`,
    what the base has. A job that names none is created with `auto`."""
    enforce_labels: StrictBool = True
    """Whether the answer behind a rationale is held to the task's labels, where it has some."""
    lora_upper_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the layers, from the top, that get adapters where `lora` is given: what is below is
    read as the base reads it, without a gradient."""
    lora: LoraSpec | None = None
    """For seq2seq and decoder-only bases; None trains all weights."""
    decoder_layers: Annotated[int, Field(ge=1, le=48)] = 2
    """Of the new decoder."""
    freeze: Literal["nothing", "embeddings", "encoder"] = "embeddings"
    """`embeddings` saves the gradient of the largest matrix; `encoder` freezes both."""
    gradient_checkpointing: StrictBool = False
    """Compute a layer's activations again in the backward pass instead of keeping them: less memory
    for long questions and rationales, more time, and the same result."""


NEW_DECODER_RATES: Mapping[str, float] = MappingProxyType(
    {"learning_rate": 1e-3, "encoder_learning_rate": 1e-4, "warmup_steps": 5}
)
"""Of a job that names no rate and whose base has no decoder: at the rate of a finetuning the new
one does not learn a thing in ten iterations."""


class Hyperparameters(Record):
    iterations: Annotated[int, Field(ge=1, le=10_000)] = 10
    """Passes over the training questions, each of which ends in a validation; the best is kept.
    With `iteration_steps`, rounds of that many steps."""
    iteration_steps: Annotated[int | None, Field(ge=1)] = None
    """Optimizer steps of an iteration, the unit of `lag` and of the judge's updates. None: a pass,
    and with sampled negatives so few that at most a quarter of the training, weighted by its
    learning rate, learns from samples of the untrained student."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 16
    """Questions per optimizer step."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 5e-5
    """Of AdamW, after the warm-up. A job that names none and whose base has no decoder is created
    with 0.001, `encoder_learning_rate` 0.0001 and `warmup_steps` 5."""
    encoder_learning_rate: Annotated[float | None, Field(gt=0, le=1)] = None
    """For a pretrained encoder under a new decoder, which needs a higher rate; None: the same."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps in which the learning rate rises to its value."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Of AdamW."""
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient."""
    max_question_tokens: Annotated[int, Field(ge=8)] = 1024
    """Of a question; a longer one is cut between its beginning and its options."""
    max_rationale_tokens: Annotated[int, Field(ge=2)] = 256
    """Of a rationale, learned and generated."""
    max_label_tokens: Annotated[int, Field(ge=2)] = 32
    """Of a label, learned and generated."""
    validation_share: Annotated[float, Field(gt=0, lt=0.9)] = 0.1
    """Of the training questions, where there is no validation file."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of training's matrix products; weights and losses stay fp32. `auto`: bf16 on a GPU that has
    it, fp32 on a CPU."""

    def get_holdout_size(self, questions: int) -> int:
        """How many of `questions` training questions are kept for validation."""
        return max(1, round(self.validation_share * questions))

    def get_pass_steps(self, questions: int) -> int:
        """Steps of one pass over `questions` training questions."""
        return math.ceil(questions / self.batch_size)

    def get_total_steps(self, questions: int) -> int:
        """Steps of the whole training."""
        return self.iterations * (self.iteration_steps or self.get_pass_steps(questions))
