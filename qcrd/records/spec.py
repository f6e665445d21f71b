"""The job's spec, with the field names of the REST API."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from qcrd.errors import Invalid
from qcrd.records.base import Record, parse_record

FIELDS_SINCE_1_0: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "task": frozenset({"fields", "conversation"}),
        "rationales": frozenset(
            {
                "max_failed_share",
                "prompt",
                "format",
                "source",
                "answers",
                "max_unreadable_share",
                "batch",
            }
        ),
    }
)
"""Fields of `MethodSpec`'s sections that records of schema version 1.0 do not have."""


class FewShotExample(Record):
    """A worked example in the few-shot prompt."""

    question: str
    explanation: str
    answer: str


class AnswerKind(StrEnum):
    LABEL = "label"
    CHOICE = "choice"
    NUMBER = "number"
    MATH = "math"
    TEXT = "text"


QuestionField = Literal[
    "question", "label", "choices", "teacher_output", "teacher_outputs", "outputs", "rationales"
]
"""What a record of a data file may have besides columns of its own."""


class TaskSpec(Record):
    """The form of answers and the teacher's prompt."""

    answer: AnswerKind = AnswerKind.TEXT
    labels: tuple[str, ...] = ()
    instruction: str = ""
    examples: tuple[FewShotExample, ...] = ()
    fields: dict[QuestionField, str | tuple[str, ...]] = Field(default_factory=dict)
    """Which columns of the job's files are `question`, `label`, `choices` and outputs: a column, a
    path into one, a template of columns in braces, or several of these for a list."""
    conversation: bool = False
    """Whether a question is a whole conversation, so that students are asked the whole chat, not
    its last message. Set for files of chats with more than one message before the reply."""

    @model_validator(mode="after")
    def validate_labels(self) -> Self:
        folded = [label.casefold().strip() for label in self.labels]
        if len(set(folded)) != len(folded) or "" in folded:
            raise ValueError("labels must be distinct and not empty")
        if self.answer is AnswerKind.LABEL and len(self.labels) < 2:
            raise ValueError("answer kind `label` needs at least two labels")
        return self


DEFAULT_STOP = ("\n\n",)
"""It ends the answer to a completion prompt, whose examples have blank lines between them. A chat
ends by itself."""


class RationaleSpec(Record):
    n: Annotated[int, Field(ge=1, le=64)] = 5
    temperature: Annotated[float, Field(ge=0, le=5)] = 0.7
    top_p: Annotated[float | None, Field(gt=0, lt=1)] = None
    """Nucleus sampling; None: the whole distribution, as in the paper."""
    max_new_tokens: Annotated[int, Field(ge=1, le=8192)] = 256
    stop: Annotated[tuple[str, ...], Field(max_length=4)] = DEFAULT_STOP
    prompt: Literal["auto", "completion", "chat"] = "auto"
    """Whether the teacher continues a text or replies in a chat; `auto`: by what it is."""
    format: Literal["auto", "tags", "json", "free"] = "auto"
    """How the teacher writes its answer: behind tags, which a grammar enforces where the teacher
    has grammars, or, in a chat, as JSON of a schema. `auto`: JSON where the provider is known to
    enforce schemas. `free`: behind tags, and nothing enforces them."""
    source: Annotated[Literal["auto", "explanation", "reasoning"], Field(alias="from")] = "auto"
    """What of a reasoning teacher's output the student learns: the explanation that it gives, or
    the reasoning before it; `auto`: the explanation, where there is one."""
    positive_rule: Literal["majority", "gold", "majority_and_gold"] = "majority"
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
    batch: bool | None = None
    """Whether the teacher is asked by batch; None: as its configuration says."""
    max_failed_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of the questions asked that the teacher may refuse (too long, filtered) before the job
    pauses; two may be in any case."""


class NegativeSource(StrEnum):
    STUDENT_LAG = "student_lag"
    TEACHER_MINORITY = "teacher_minority"
    FIXED = "fixed"


class NegativeSpec(Record):
    source: tuple[NegativeSource, ...] = (NegativeSource.STUDENT_LAG,)
    lag: Annotated[int, Field(ge=1, le=100)] = 5
    temperature: Annotated[float, Field(gt=0, le=5)] = 1.5
    n: Annotated[int, Field(ge=1, le=16)] = 1
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
    hidden: Annotated[int, Field(ge=1, le=8192)] = 256
    loss: Literal["paper", "bce", "infonce"] = "paper"
    pretrain_steps: Annotated[int, Field(ge=0, le=500)] = 500
    update_steps: Annotated[int, Field(ge=1, le=500)] = 8
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 16
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4
    max_tokens: Annotated[int, Field(ge=8, le=8192)] = 256


class ManyToOneScheme(StrEnum):
    MIN_MAX = "min_max"
    MAX_MIN = "max_min"
    SAMPLING = "sampling"
    MEAN = "mean"
    WEIGHTED_MEAN = "weighted_mean"


class LossSpec(Record):
    """Weights of eqs 3 and 8, margin of eq. 7, many-to-one scheme of Table 5."""

    alpha: tuple[
        Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]
    ] = (0.5, 0.5, 0.5)
    alpha3_decay: Annotated[float, Field(gt=0, le=1)] = 0.9
    beta: Annotated[float, Field(ge=0)] = 0.2
    delta: Annotated[float, Field(gt=0)] = 3.0
    scheme: ManyToOneScheme = ManyToOneScheme.MIN_MAX


class LoraSpec(Record):
    """Low-rank adapters (Hu et al. 2021) on every linear layer but the output head; the rest is
    frozen. They are merged into the published student."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    alpha: Annotated[int, Field(ge=1)] = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class StudentSpec(Record):
    """How a base checkpoint becomes a student. `decoder_layers` and `freeze` are only read for
    encoder-only bases (BERT-like), around which an encoder-decoder with a new decoder is built."""

    lora: LoraSpec | None = None
    """For seq2seq and decoder-only bases; None trains all weights."""
    decoder_layers: Annotated[int, Field(ge=1, le=48)] = 2
    freeze: Literal["nothing", "embeddings", "encoder"] = "embeddings"
    """`embeddings` saves the gradient of the largest matrix; `encoder` freezes both."""


class Hyperparameters(Record):
    iterations: Annotated[int, Field(ge=1, le=10_000)] = 10
    iteration_steps: Annotated[int | None, Field(ge=1)] = None
    """Optimizer steps per iteration; None is one pass over the training questions."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 16
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 5e-5
    encoder_learning_rate: Annotated[float | None, Field(gt=0, le=1)] = None
    """For a pretrained encoder under a new decoder, which needs a higher rate; None: the same."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    max_question_tokens: Annotated[int, Field(ge=8)] = 1024
    max_rationale_tokens: Annotated[int, Field(ge=2)] = 256
    max_label_tokens: Annotated[int, Field(ge=2)] = 32
    validation_share: Annotated[float, Field(gt=0, lt=0.9)] = 0.1
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of training's matrix products; weights and losses stay fp32. `auto`: bf16 on a GPU that has
    it, fp32 on a CPU."""

    def get_holdout_size(self, questions: int) -> int:
        """How many of `questions` training questions are kept for validation."""
        return max(1, round(self.validation_share * questions))

    def get_iteration_steps(self, questions: int) -> int:
        """Steps of an iteration on `questions` training questions: an epoch, unless it is set."""
        return self.iteration_steps or math.ceil(questions / self.batch_size)


class MethodName(StrEnum):
    """The method a job trains. The ablation ladder is `dss`, its two extensions, `qcrd`."""

    FINETUNE = "finetune"
    SINGLE_TASK = "single_task"
    DSS = "dss"
    DSS_POSITIVES = "dss+positives"
    DSS_NEGATIVES = "dss+positives+negatives"
    QCRD = "qcrd"


class Baseline(StrEnum):
    """Baselines trained beside the main method. `finetune` takes the same number of optimizer
    steps, `finetune_equal_compute` as many as the main method's floating-point work allows."""

    FINETUNE = "finetune"
    FINETUNE_EQUAL_COMPUTE = "finetune_equal_compute"
    SINGLE_TASK = "single_task"
    DSS = "dss"
    DSS_POSITIVES = "dss+positives"
    DSS_NEGATIVES = "dss+positives+negatives"
    QCRD = "qcrd"


class MethodSpec(Record):
    """The body of `method.<type>`; deployment details are in the services' settings."""

    teacher: str = "default"
    task: TaskSpec = TaskSpec()
    label_mode: Literal["gold", "llm"] = "gold"
    rationales: RationaleSpec = RationaleSpec()
    negatives: NegativeSpec = NegativeSpec()
    discriminator: JudgeSpec = JudgeSpec()
    loss: LossSpec = LossSpec()
    student: StudentSpec = StudentSpec()
    hyperparameters: Hyperparameters = Hyperparameters()
    baselines: tuple[Baseline, ...] = ()


class Budget(Record):
    """A job's limits for its teacher; it pauses before it would exceed them. None: no limit."""

    teacher_tokens: Annotated[int | None, Field(ge=1)] = None
    """Prompt and completion tokens together."""
    cost: Annotated[float | None, Field(gt=0)] = None
    """In the currency of the teacher's prices, which the server's configuration names."""


class Priority(StrEnum):
    """Priority among waiting jobs; equal ones run in the order of their creation."""

    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


class JobSpec(Record):
    """The full description of a job; fixed when it is created and saved beside its model.

    `training_file`, `validation_file`, `test_file` and `rationales.import` are file ids.
    """

    model: Annotated[str, Field(min_length=1)]
    training_file: str
    validation_file: str | None = None
    test_file: str | None = None
    suffix: Annotated[str | None, Field(max_length=64)] = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    metadata: dict[str, str] = Field(default_factory=dict)
    priority: Priority = Priority.NORMAL
    budget: Budget = Budget()
    method: MethodName = MethodName.QCRD
    settings: MethodSpec = MethodSpec()
    knowledge_of: str | None = None
    """Id of the job whose rationale set is trained on; None: the job assembles its own."""
    webhook: Annotated[str | None, Field(max_length=2048)] = None
    """URL that is notified when the job ends, on a host that the server lists."""

    @model_validator(mode="before")
    @classmethod
    def parse_method(cls, data: Any) -> Any:
        """Accept the REST form too: `{"method": {"type": "qcrd", "qcrd": {…}}}`."""
        if not isinstance(data, dict) or not isinstance(data.get("method"), dict):
            return data
        method = dict(data["method"])
        kind = method.pop("type", None)
        if not isinstance(kind, str) or kind not in set(MethodName):
            known = ", ".join(MethodName)
            raise Invalid(
                f"`method.type` must be one of {known}, not {str(kind)[:80]!r}",
                param="method.type",
            )
        body = method.pop(kind, None)
        for key in method:
            raise Invalid(f"unknown key `method.{key}`", param=f"method.{key}", code="unknown_key")
        settings = parse_record(MethodSpec, {} if body is None else body, root=f"method.{kind}")
        return {**data, "method": kind, "settings": settings}

    def dump_identity(self) -> str:
        """The spec as JSON for digests that name what was computed from it. A field that came with
        a later release is left out while it has its default: a job that began before goes on."""
        added = {
            section: {
                field
                for field in fields
                if getattr(getattr(self.settings, section), field)
                == type(getattr(self.settings, section))
                .model_fields[field]
                .get_default(call_default_factory=True)
            }
            for section, fields in FIELDS_SINCE_1_0.items()
        }
        return self.model_dump_json(exclude={"settings": added})

    def dump_method(self) -> dict[str, Any]:
        """The `method` object as the REST API shows it."""
        body = self.settings.model_dump(mode="json", by_alias=True)
        return {"type": self.method.value, self.method.value: body}
