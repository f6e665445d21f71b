"""Checks of a study's spec: each row as the job that it will be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from qcrd.errors import Invalid
from qcrd.records.specs.spec import MethodName
from qcrd.records.specs.study_rows import StudyMethod
from qcrd.records.specs.study_spec import StudySpec, prefix_error_path
from services.api.dependencies import Gateway
from services.api.jobs.checks.budget_checks import check_budget_covers_a_request
from services.api.jobs.checks.unread_fields import check_unread_fields
from services.api.jobs.checks.validation import validate_job_spec
from services.api.jobs.checks.validation_cache import ValidationCache
from services.api.jobs.shared_rationales import check_shared_set
from services.api.studies.planning import get_trained_row


def validate_study_spec(gateway: Gateway, spec: StudySpec, cache: ValidationCache) -> None:
    """Parse the body as a job that has all the methods as its rows; an error names the path in the
    study's body, where the settings are under `job.method`, or in the row whose own they are."""
    methods = tuple(dict.fromkeys(row.method for row in spec.rows))
    for place, row in enumerate(spec.rows):
        if place and not row.settings:
            continue  # the first is checked with all the methods
        _check_greedy_outputs(spec, place, row)
        for trial in range(max(1, len(spec.trials))):
            method = MethodName(get_trained_row(row, spec).method.value)
            settings = spec.make_settings(row, trial).model_copy(update={"baselines": methods})
            job = spec.job.model_copy(update={"method": method, "settings": settings})
            with _telling_paths(spec, row, method):
                validate_job_spec(job, gateway, cache)
                if not place:
                    check_shared_set(job, gateway.jobs)
                    check_budget_covers_a_request(gateway, job)
            alone = job.model_copy(
                update={"settings": settings.model_copy(update={"baselines": ()})}
            )
            with _telling_paths(spec, row, method, own_only=True):
                check_unread_fields(alone)


def _check_greedy_outputs(spec: StudySpec, place: int, row: StudyMethod) -> None:
    """`Invalid` for a row that samples in its own way where outputs are imported: nobody is asked,
    and it would be trained on the same outputs as the others under another name."""
    own = row.settings.get("rationales", {})
    if "temperature" not in own or "import" in own:
        return
    if spec.job.settings.rationales.import_file is None:
        return
    raise Invalid(
        f"`methods.{place}` ({row.name}): the outputs are imported, and not known to be sampled at "
        f"temperature {own['temperature']}: leave it out, or give the row a file of such outputs, "
        f"`{{name: {row.name}, method: {row.method}, settings: {{rationales: {{import: file-…, "
        "positive_rule: all}}}`",
        param=f"methods.{place}",
        code="other_outputs",
    )


@contextmanager
def _telling_paths(
    spec: StudySpec, row: StudyMethod, method: MethodName, *, own_only: bool = False
) -> Iterator[None]:
    """An error's field by its path in the study's body; with `own_only` of a row's own fields
    alone."""
    try:
        yield
    except Invalid as error:
        own_path = f"method.{method}."
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
