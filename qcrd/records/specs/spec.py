"""The job's spec, with the field names of the REST API."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from qcrd.errors import Invalid
from qcrd.records.base import Record, parse_record
from qcrd.records.specs.evaluation_spec import EvaluationSpec
from qcrd.records.specs.integrations import IntegrationSpec
from qcrd.records.specs.rationale_spec import RationaleSpec
from qcrd.records.specs.task import AnswerKind, TaskSpec
from qcrd.records.specs.training_spec import (
    Hyperparameters,
    JudgeSpec,
    LossSpec,
    NegativeSpec,
    PositiveSpec,
    StudentSpec,
)

FIELDS_SINCE_1_0: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "task": frozenset({"fields", "conversation"}),
        "negatives": frozenset({"top_p", "filter", "keep_right", "control"}),
        "loss": frozenset({"contrast_normaliser", "contrast", "dpo_beta"}),
        "student": frozenset(
            {"gradient_checkpointing", "answers", "prompt", "enforce_labels", "lora_upper_share"}
        ),
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
        "discriminator": frozenset({"weight_decay", "control"}),
        "evaluation": frozenset({"machine_cost_per_hour", "time_teacher"}),
    }
)
"""Fields of `MethodSpec`'s sections that records of schema version 1.0 do not have."""


def list_added_defaults(section: str, settings: Record) -> set[str]:
    """Fields of `section` that came with a later release and have their default in `settings`:
    what is compared with records of an earlier release leaves them out."""
    fields = type(settings).model_fields
    return {
        name
        for name in FIELDS_SINCE_1_0.get(section, ())
        if getattr(settings, name) == fields[name].get_default(call_default_factory=True)
    }


class MethodName(StrEnum):
    """The method a job trains. The ablation ladder is `dss`, its two extensions, `qcrd`."""

    FINETUNE = "finetune"
    SINGLE_TASK = "single_task"
    DSS = "dss"
    DSS_POSITIVES = "dss+positives"
    DSS_NEGATIVES = "dss+positives+negatives"
    QCRD = "qcrd"


LOGIT_METHODS = ("gkd", "logit_distillation")
"""Asked for by name, and refused by name."""


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


PAPER: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "rationales": {
            "n": 5, "temperature": 0.7, "top_p": None, "positive_rule": "majority",
        },
        "negatives": {
            "source": "student_lag", "lag": 5, "temperature": 1.5, "n": 1, "top_p": 1.0,
            "filter": "none",
        },
        "discriminator": {"loss": "paper", "pretrain_steps": 500},
        "loss": {
            "alpha": [0.5, 0.5, 0.5], "alpha3_decay": 0.9, "beta": 0.2, "delta": 3.0,
            "scheme": "min_max", "contrast_normaliser": "all",
        },
        "student": {"answers": "label", "prompt": "plain"},
    }
)  # fmt: skip
"""Wang et al. 2025, sections 3 and 4.1, where they say what they did. They do not say how long an
iteration is, and train with gold labels and without."""


def apply_paper_preset(data: Mapping[str, Any]) -> dict[str, Any]:
    """The sections of `data` with the paper's values. `Invalid` where one says otherwise."""
    sections: dict[str, Any] = {}
    for section, fields in PAPER.items():
        own = data.get(section, {})
        if not isinstance(own, dict):
            continue  # told by the section's own check
        for field, value in fields.items():
            if field in own and own[field] not in (value, [value]):
                raise Invalid(
                    f"`preset: paper` sets `{section}.{field}` to {value}, and the spec says "
                    f"{str(own[field])[:80]}: leave one of the two out",
                    param=f"{section}.{field}",
                    code="preset_contradicted",
                )
        sections[section] = {**own, **fields}
    return sections


class MethodSpec(Record):
    """The body of `method.<type>`; deployment details are in the services' settings."""

    preset: Annotated[Literal["paper"] | None, Field(exclude=True)] = None
    """`paper`: the setting of the paper, whatever our defaults are; it stands in the stored spec
    field by field, and a field that says otherwise is refused."""
    teacher: str = "default"
    """Name of a teacher in the server's configuration."""
    task: TaskSpec = TaskSpec()
    """What is asked and answered."""
    label_mode: Literal["gold", "llm"] = "gold"
    """What the student learns to predict: the gold label, or the teacher's vote (`llm`)."""
    rationales: RationaleSpec = RationaleSpec()
    """How the rationales come about."""
    positives: PositiveSpec = PositiveSpec()
    """Which of them are taught."""
    negatives: NegativeSpec = NegativeSpec()
    """How the negative rationales come about."""
    discriminator: JudgeSpec = JudgeSpec()
    """The judge of rationales."""
    loss: LossSpec = LossSpec()
    """The objective."""
    student: StudentSpec = StudentSpec()
    """How the base becomes a student."""
    hyperparameters: Hyperparameters = Hyperparameters()
    """Of the training."""
    evaluation: EvaluationSpec = EvaluationSpec()
    """Of the finished student."""
    baselines: tuple[Baseline, ...] = ()
    """Methods that are trained beside it, for the report's comparison."""

    @property
    def enforced_labels(self) -> tuple[str, ...]:
        """The labels that an answer behind a rationale is held to; none where any text may be."""
        is_held = self.student.enforce_labels and self.task.answer is AnswerKind.LABEL
        return self.task.labels if is_held else ()

    @model_validator(mode="before")
    @classmethod
    def expand_preset(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("preset") != "paper":
            return data
        return {**data, **apply_paper_preset(data)}


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
    """Base of the student: a folder of the server's models, a model of the hub, or a published
    one."""
    training_file: str
    """Id of a file; on the command line a path."""
    validation_file: str | None = None
    """Chooses the best iteration; without it a share of the training questions does."""
    test_file: str | None = None
    """Held out: the report's accuracies are on it."""
    suffix: Annotated[str | None, Field(max_length=64)] = None
    """Part of the model's card."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of everything that is drawn."""
    metadata: dict[str, str] = Field(default_factory=dict)
    """Pairs of your own, by which jobs can be listed."""
    priority: Priority = Priority.NORMAL
    """Who goes first among waiting jobs."""
    budget: Budget = Budget()
    """Limits for the teacher."""
    method: MethodName = MethodName.QCRD
    settings: MethodSpec = MethodSpec()
    knowledge_of: str | None = None
    """Id of the job whose rationale set is trained on; None: the job assembles its own."""
    after: str | None = None
    """Id of a job whose rationale set is waited for before the teacher is asked, so that outputs
    which both ask for are paid once."""
    webhook: Annotated[str | None, Field(max_length=2048)] = None
    """URL that is notified when the job ends, on a host that the server lists."""
    integrations: Annotated[tuple[IntegrationSpec, ...], Field(max_length=5)] = ()
    """Experiment trackers that the trainer tells its numbers, each by its type."""

    @field_validator("integrations")
    @classmethod
    def check_types_differ(
        cls, integrations: tuple[IntegrationSpec, ...]
    ) -> tuple[IntegrationSpec, ...]:
        if len({each.type for each in integrations}) < len(integrations):
            raise ValueError("two of one `type`: a job is one run in a tracker")
        return integrations

    @model_validator(mode="before")
    @classmethod
    def parse_method(cls, data: Any) -> Any:
        """Accept the REST form too: `{"method": {"type": "qcrd", "qcrd": {…}}}`."""
        if not isinstance(data, dict) or not isinstance(data.get("method"), dict):
            return data
        method = dict(data["method"])
        kind = method.pop("type", None)
        if kind in LOGIT_METHODS:
            raise Invalid(
                f"`method.type`: {kind!r} needs the teacher's distribution at every token of the "
                "student's own samples, which no teacher's server gives: take `dss`, or run "
                "`python -m benchmarks.logit_distillation` with the teacher's weights",
                param="method.type",
                code="no_teacher_logits",
            )
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
        added: dict[str, Any] = {
            section: list_added_defaults(section, getattr(self.settings, section))
            for section in FIELDS_SINCE_1_0
        }
        for section, default in (("evaluation", EvaluationSpec()), ("positives", PositiveSpec())):
            if getattr(self.settings, section) == default:
                added[section] = True
        # Who is told of a job changes nothing that is computed.
        exclude: dict[str, Any] = {"settings": added, "integrations": True}
        if self.after is None:
            exclude["after"] = True
        return self.model_dump_json(exclude=exclude)

    def dump_method(self) -> dict[str, Any]:
        """The `method` object as the REST API shows it."""
        body = self.settings.model_dump(mode="json", by_alias=True)
        return {"type": self.method.value, self.method.value: body}
