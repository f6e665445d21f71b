"""Checks of a study's spec: each row as the job that it will be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from qcrd.errors import Invalid
from qcrd.method.training.objectives import OBJECTIVES
from qcrd.records.specs.spec import Baseline, JobSpec, MethodName, MethodSpec
from qcrd.records.specs.study_rows import StudyMethod
from qcrd.records.specs.study_spec import StudySpec, prefix_error_path
from services.api.dependencies import Gateway
from services.api.jobs.checks.budget_checks import check_budget_covers_a_request
from services.api.jobs.checks.spec_limits import check_spec_size
from services.api.jobs.checks.unread_fields import check_unread_fields
from services.api.jobs.checks.validation import validate_job_spec
from services.api.jobs.checks.validation_cache import ValidationCache
from services.api.jobs.shared_rationales import check_shared_set
from services.api.studies.planning import describe_set

BESIDE = frozenset({Baseline.FINETUNE_EQUAL_COMPUTE})
"""Methods without a job of their own."""


SAMPLING = ("n", "temperature", "top_p", "max_new_tokens", "prompt", "format")
"""Of `rationales`: how a teacher is asked."""


def validate_study_spec(gateway: Gateway, spec: StudySpec, cache: ValidationCache) -> None:
    """Check the rows without settings of their own as one job that has them all, and each other one
    by itself; an error names the path in the study's body, where the settings are under
    `job.method`, or in the row whose own they are."""
    plain = [row for row in spec.rows if not row.settings]
    trained = next((row for row in plain if row.method not in BESIDE), None)
    methods = tuple(row.method.value for row in spec.rows)
    own_set = describe_set(spec.job.settings)
    for row in ([trained] if trained else []) + [row for row in spec.rows if row.settings]:
        with _telling_paths(spec, row, own_only=True):
            _check_own_settings(spec, row)
        for trial in range(max(1, len(spec.trials))):
            settings = spec.make_settings(row, trial)
            if not row.settings:
                beside = tuple(each.method for each in plain if each.method is not row.method)
                settings = settings.model_copy(update={"baselines": beside})
            job = _make_job(spec, row, settings)
            with _telling_paths(spec, row):
                check_spec_size(job)
                validate_job_spec(job, gateway, cache, methods)
                if describe_set(settings) != own_set:
                    job = job.model_copy(update={"knowledge_of": None})
                check_shared_set(job, gateway.jobs)
                check_budget_covers_a_request(gateway, job)
            with _telling_paths(spec, row, own_only=True):
                check_unread_fields(_make_job(spec, row, spec.make_settings(row, trial)))


def _make_job(spec: StudySpec, row: StudyMethod, settings: MethodSpec) -> JobSpec:
    method = MethodName(row.method.value)
    return spec.job.model_copy(update={"method": method, "settings": settings})


def _check_own_settings(spec: StudySpec, row: StudyMethod) -> None:
    """`Invalid` for sections that the row's method does not read, and for a row that samples in its
    own way where outputs are imported: nobody is asked, and it would be trained on the others'
    outputs under another name."""
    path, objective = f"method.{row.method}", OBJECTIVES[row.method]
    read = {
        "discriminator": objective.uses_judge,
        "negatives": objective.uses_negatives,
        "positives": objective.max_positives != 0,
        "loss": objective.max_positives != 0,
    }
    for section in row.settings:
        if not read.get(section, True):
            raise Invalid(
                f"`{path}.{section}` is not read by {row.method}: leave it out, or take a method "
                "that reads it",
                param=f"{path}.{section}",
                code="unread_field",
            )
    own, shared = row.settings.get("rationales", {}), spec.job.settings.rationales
    if "import" in own or shared.import_file is None:
        return
    for name in SAMPLING:
        if name not in own or own[name] == getattr(shared, name):
            continue
        if name == "n" and row.method is Baseline.DSS and own.get("positive_rule") == "all":
            continue  # it learns from the first of however many
        raise Invalid(
            f"`{path}.rationales.{name}`: the job's outputs are imported, so no teacher is asked, "
            f"and they are not known to be sampled like that: leave the row out, or write it with "
            f"a file of such outputs, `{{name: …, method: {row.method}, settings: {{rationales: "
            "{import: file-…, positive_rule: all}}}`",
            param=f"{path}.rationales.{name}",
            code="other_outputs",
        )


@contextmanager
def _telling_paths(spec: StudySpec, row: StudyMethod, *, own_only: bool = False) -> Iterator[None]:
    """An error's field by its path in the study's body; with `own_only` of a row's own fields
    alone."""
    try:
        yield
    except Invalid as error:
        own_path = f"method.{row.method}."
        field = (error.param or "").removeprefix(own_path)
        section, name, *_ = [*field.split("."), "", ""]
        is_own = name in row.settings.get(section, ()) if name else section in row.settings
        if own_only and not is_own:
            return
        place = spec.rows.index(row)
        # A named row's settings are not in the body: it is the row that does not fit.
        is_written = isinstance(spec.methods[place], StudyMethod)
        path = f"methods.{place}.settings." if is_own else f"job.method.{spec.job.method}."
        param = error.param
        if param is not None and not param.startswith(own_path):
            raise prefix_error_path("job", error) from error
        if is_own and not is_written:
            message = f"`methods.{place}` ({row.name}): {error.message}"
            raise Invalid(message, param=f"methods.{place}", code=error.code) from error
        message = error.message.replace(f"`{own_path}", f"`{path}")
        shown = param and param.replace(own_path, path)
        raise Invalid(message, param=shown, code=error.code) from error
