"""The spec of a study: which methods, under which settings and seeds, are compared with what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from qcrd.errors import Invalid
from qcrd.records.base import Record, parse_record
from qcrd.records.reports.verdicts import EQUIVALENCE_MARGIN
from qcrd.records.specs.spec import Baseline, JobSpec, MethodSpec
from qcrd.records.specs.study_rows import OWN_SECTIONS, ROWS, NamedRow, StudyMethod

LABEL_ONLY_METHODS = frozenset({Baseline.FINETUNE, Baseline.FINETUNE_EQUAL_COMPUTE})
"""The methods that use labels only."""
MAX_JOBS = 256
"""Most training runs of a study; a larger number is taken for a mistake."""
MAX_TRIALS = 16
TRIED_RATES = frozenset(
    {"learning_rate", "encoder_learning_rate", "warmup_steps", "weight_decay", "clip_norm"}
)
TRIED = (*sorted(TRIED_RATES), "iterations", "iteration_steps", "batch_size")
"""Hyperparameters that a trial may set: the others change what is read, or what it is measured on.
"""
RESERVED_NAMES = frozenset({*Baseline, *NamedRow, "teacher", "majority_class"})
"""Of rows that are not written out, and of what stands beside them in a table."""


class StudySpec(Record):
    """The methods and seeds to compare: `job` under each of them, tested against `baseline`.

    `job.method` has the settings that all methods share; its name and `job.seed` are replaced by
    those of each cell.
    """

    job: JobSpec
    methods: Annotated[tuple[Baseline | NamedRow | StudyMethod, ...], Field(max_length=MAX_JOBS)]
    """Rows of the table: a method, a named row, or a method with settings of its own."""
    seeds: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(max_length=MAX_JOBS)
    ] = (0,)
    baseline: str = Baseline.FINETUNE_EQUAL_COMPUTE.value
    """Name of the row that the others are tested against."""
    trials: Annotated[tuple[dict[str, Any], ...], Field(max_length=MAX_TRIALS)] = ()
    """Rates and lengths to try, the same for every row: each row and seed is trained under all of
    them, and the one that is best on validation stands in the table."""
    equivalence_margin: float = Field(default=EQUIVALENCE_MARGIN, gt=0, le=0.5)
    """Differences of accuracy below it are taken for none, as a share. Set it before any result is
    known."""

    @field_validator("job", mode="before")
    @classmethod
    def parse_job(cls, data: Any, info: ValidationInfo) -> Any:
        """Parse the body of a job; errors name the field by its path in the study, `job.…`."""
        if not isinstance(data, dict) or info.mode == "json":
            return data
        try:
            return parse_record(
                JobSpec, {name: value for name, value in data.items() if value is not None}
            )
        except Invalid as error:
            raise prefix_error_path("job", error) from error

    @field_validator("methods", mode="before")
    @classmethod
    def parse_methods(cls, data: Any, info: ValidationInfo) -> Any:
        """What was stored may have fields of a later release; what a client sends may not."""
        if not isinstance(data, (list, tuple)) or info.mode == "json" or len(data) > MAX_JOBS:
            return data
        return tuple(_parse_method(f"methods.{index}", each) for index, each in enumerate(data))

    @model_validator(mode="after")
    def validate_comparison(self) -> Self:
        names = [row.name for row in self.rows]
        _check_distinct("methods", names)
        _check_distinct("seeds", self.seeds)
        self._check_trials()
        if self.baseline not in names:
            raise Invalid(
                f"`baseline`: {self.baseline[:80]!r} is none of the study's methods: add it to "
                f"`methods`, or name one of {', '.join(names)}",
                param="baseline",
            )
        n_trials = max(1, len(self.trials))
        if len(names) * len(self.seeds) * n_trials > MAX_JOBS:
            trials = f" × {n_trials} trials" if self.trials else ""
            raise Invalid(
                f"`seeds`: {len(names)} methods × {len(self.seeds)} seeds{trials} are more than "
                f"{MAX_JOBS} runs: take fewer",
                param="seeds",
            )
        if self.job.settings.baselines:
            raise Invalid(
                "`job.method`: a study has no `baselines` besides its methods: list them in "
                "`methods` instead",
                param=f"job.method.{self.job.method}.baselines",
            )
        if Baseline.FINETUNE_EQUAL_COMPUTE in self.methods and self.compute_reference is None:
            raise Invalid(
                "`methods`: finetune_equal_compute spends what another method of the same seed "
                "spent, and there is none: add one that learns from rationales, such as `qcrd`",
                param="methods",
                code="no_reference",
            )
        for row in self.rows:  # whatever is wrong is told here, by its path
            for trial in range(n_trials):
                self.make_settings(row, trial)
        return self

    def _check_trials(self) -> None:
        for index, trial in enumerate(self.trials):
            for name in trial:
                if name not in TRIED:
                    path = f"trials.{index}.{name[:80]}"
                    raise Invalid(
                        f"`{path}` is none of what a trial may set: {', '.join(TRIED)}",
                        param=path,
                        code="unknown_key",
                    )
        if self.trials:
            _check_distinct("trials", self.trials)

    @property
    def rows(self) -> tuple[StudyMethod, ...]:
        return tuple(map(_make_row, self.methods))

    @property
    def compute_reference(self) -> StudyMethod | None:
        """The row whose compute `finetune_equal_compute` gets: qcrd, else the last one that uses
        rationales."""
        rows = [row for row in self.rows if row.method not in LABEL_ONLY_METHODS]
        plain = [row for row in rows if row.name == Baseline.QCRD]
        return next(iter(plain or reversed(rows)), None)

    def make_settings(self, row: StudyMethod, trial: int = 0) -> MethodSpec:
        """The job's settings, under the row's own and those of the trial of that number. `Invalid`
        with a field's path in the study."""
        settings = _merge(self.job.settings, row.settings, self._locate(row))
        if not self.trials:
            return settings
        own = {"hyperparameters": self.trials[trial]}
        return _merge(settings, own, f"trials.{trial}", skip="hyperparameters.")

    def _locate(self, row: StudyMethod) -> str:
        return f"methods.{self.rows.index(row)}.settings"


def prefix_error_path(root: str, error: Invalid) -> Invalid:
    """`error` with the path of its field prefixed by `root`."""
    if error.param is None:
        return error
    path = f"{root}.{error.param}"
    message = error.message.replace(f"`{error.param}`", f"`{path}`")
    return Invalid(message, param=path, code=error.code)


def _parse_method(path: str, data: Any) -> Any:
    if isinstance(data, str):
        known = [*Baseline, *NamedRow]
        if data not in known:
            raise Invalid(
                f"`{path}`: {data[:80]!r} is no method: take one of {', '.join(known)}, or "
                "`{name, method, settings}`",
                param=path,
            )
        return Baseline(data) if data in set(Baseline) else NamedRow(data)
    if not isinstance(data, Mapping):
        raise Invalid(
            f"`{path}` must be the name of a method or row, or `{{name, method, settings}}`",
            param=path,
        )
    if data.get("name") in RESERVED_NAMES:
        raise Invalid(
            f"`{path}.name`: {data['name']!r} means something else in a table: take another name",
            param=f"{path}.name",
        )
    row = parse_record(StudyMethod, data, root=path)
    if row.method is Baseline.FINETUNE_EQUAL_COMPUTE:
        raise Invalid(
            f"`{path}.method`: finetune_equal_compute is trained beside another method, with its "
            "settings: name it by itself",
            param=f"{path}.method",
        )
    for section in row.settings:
        if section not in OWN_SECTIONS:
            raise Invalid(
                f"`{path}.settings.{section[:80]}` is none of what a row may set for itself: "
                f"{', '.join(OWN_SECTIONS)}",
                param=f"{path}.settings.{section}",
                code="unknown_key",
            )
    return row


def _make_row(method: Baseline | NamedRow | StudyMethod) -> StudyMethod:
    if isinstance(method, StudyMethod):
        return method
    if isinstance(method, Baseline):
        return StudyMethod(name=method.value, method=method)
    trained, settings = ROWS[method]
    return StudyMethod(name=method.value, method=trained, settings=dict(settings))


def _merge(
    settings: MethodSpec, own: Mapping[str, Any], path: str, *, skip: str = ""
) -> MethodSpec:
    """Section by section and field by field. Errors say `path`, less `skip`."""
    if not own:
        return settings
    data = settings.model_dump(by_alias=True, exclude_unset=True)
    for section, value in own.items():
        is_mapping = isinstance(value, Mapping) and isinstance(data.get(section, {}), Mapping)
        data[section] = {**data.get(section, {}), **value} if is_mapping else value
    try:
        return parse_record(MethodSpec, data)
    except Invalid as error:
        if error.param is None:
            raise
        shown = f"{path}.{error.param.removeprefix(skip)}"
        message = error.message.replace(f"`{error.param}`", f"`{shown}`")
        raise Invalid(message, param=shown, code=error.code) from error


def _check_distinct(param: str, values: Sequence[Any]) -> None:
    if not values:
        raise Invalid(f"`{param}` is empty: name at least one", param=param)
    for index, value in enumerate(values):
        if value in values[:index]:
            path = f"{param}.{index}"
            raise Invalid(f"`{path}`: {value} is there twice", param=path)
