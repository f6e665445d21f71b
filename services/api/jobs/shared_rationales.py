"""Training on the rationale set of another job: `knowledge_of` in a job's spec.

It is checked when the job is created; the stage `assembling` then only waits until the other job
has its set.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from qcrd.errors import Invalid, NotFound
from qcrd.records.job import Job
from qcrd.records.specs.spec import JobSpec
from qcrd.runtime import keys
from qcrd.runtime.jobs.store import JobStore
from services.api.assembling import sampling_plan


def check_shared_set(spec: JobSpec, jobs: JobStore) -> None:
    """`Invalid`, naming the field, unless the set of job `spec.knowledge_of` would be the one that
    this job would have assembled, and for a job to wait for that is none."""
    if spec.after is not None and spec.knowledge_of is not None:
        raise Invalid(
            "`after`: a job that trains on the set of another one (`knowledge_of`) asks no "
            "teacher, so there is nothing to wait for: leave it out",
            param="after",
            code="unread_field",
        )
    if spec.after is not None:
        _get_job(spec.after, "after", "asks the teacher at once", jobs)
    if spec.knowledge_of is None:
        return
    leader = _get_job(spec.knowledge_of, "knowledge_of", "assembles a rationale set", jobs)
    for (param, ours), (_, theirs) in zip(
        _iter_set_inputs(spec), _iter_set_inputs(leader.spec), strict=True
    ):
        if ours != theirs:
            raise Invalid(
                f"`{param}` is not that of job {leader.id}, whose rationale set `knowledge_of` "
                "asks for: give both jobs the same, or leave out `knowledge_of`",
                param=param,
                code="other_knowledge",
            )
    if sampling_plan.needs_teacher_outputs(spec) and not sampling_plan.needs_teacher_outputs(
        leader.spec
    ):
        raise Invalid(
            f"`knowledge_of`: job {leader.id} reads labels only, so its set has no rationales for "
            f"{spec.method}: name a job that learns from rationales, or leave it out",
            param="knowledge_of",
            code="other_knowledge",
        )


def _get_job(job_id: str, param: str, does: str, jobs: JobStore) -> Job:
    """A missing job in a spec is an invalid value: 400, not 404. `does`: this job without one."""
    try:
        return jobs.get(keys.validate_id(job_id, param))
    except NotFound as error:
        raise Invalid(
            f"`{param}`: there is no job {job_id}: leave it out, and this job {does}",
            param=param,
            code="job_not_found",
        ) from error


def _iter_set_inputs(spec: JobSpec) -> Iterator[tuple[str, Any]]:
    """The settings that determine a rationale set, by the path of each field."""
    settings, path = spec.settings, f"method.{spec.method}"
    yield "training_file", spec.training_file
    yield "validation_file", spec.validation_file
    yield "test_file", spec.test_file
    yield f"{path}.teacher", settings.teacher
    yield f"{path}.task", settings.task
    yield f"{path}.label_mode", settings.label_mode
    yield f"{path}.rationales", settings.rationales
