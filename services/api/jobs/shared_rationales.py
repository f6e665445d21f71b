"""Training on the rationale set of another job: `knowledge_of` in a job's spec.

Whether that can be is asked when the job is created; the stage `assembling` then only waits until
the other job has its set, and takes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from qcrd.errors import Invalid, NotFound, Transient
from qcrd.records import Job, JobSpec, Stage
from qcrd.runtime import keys
from qcrd.runtime.jobs.commands import TERMINAL, JobStore
from qcrd.runtime.jobs.stage_context import WAITS_FOR_JOB, Next, StageContext
from services.api.assembling import sampling_plan

WAIT_SECONDS = 5.0
"""Between two looks at a set that is not there yet."""


def check_shared(spec: JobSpec, jobs: JobStore) -> None:
    """`Invalid`, naming the field, unless the set of job `spec.knowledge_of` would be the one that
    this job would have assembled."""
    if spec.knowledge_of is None:
        return
    leader = _named(spec.knowledge_of, jobs)
    for (param, ours), (_, theirs) in zip(_read(spec), _read(leader.spec), strict=True):
        if ours != theirs:
            raise Invalid(
                f"`{param}` is not that of job {leader.id}, whose rationale set `knowledge_of` "
                "asks for: give both jobs the same, or leave out `knowledge_of`",
                param=param,
                code="other_knowledge",
            )
    if sampling_plan.needs_outputs(spec) and not sampling_plan.needs_outputs(leader.spec):
        raise Invalid(
            f"`knowledge_of`: job {leader.id} reads labels only, so its set has no rationales for "
            f"{spec.method}: name a job that learns from rationales, or leave it out",
            param="knowledge_of",
            code="other_knowledge",
        )


def _named(job_id: str, jobs: JobStore) -> Job:
    """In a spec a job that is missing is a wrong value, not a wrong address."""
    try:
        return jobs.get(keys.check_id(job_id, "knowledge_of"))
    except NotFound as error:
        raise Invalid(
            f"`knowledge_of`: there is no job {job_id}: leave it out, and this job assembles a "
            "rationale set of its own",
            param="knowledge_of",
            code="job_not_found",
        ) from error


def _read(spec: JobSpec) -> Iterator[tuple[str, Any]]:
    """What a rationale set is made from, by the path of each field."""
    settings, path = spec.settings, f"method.{spec.method}"
    yield "training_file", spec.training_file
    yield "validation_file", spec.validation_file
    yield "test_file", spec.test_file
    yield f"{path}.teacher", settings.teacher
    yield f"{path}.task", settings.task
    yield f"{path}.label_mode", settings.label_mode
    yield f"{path}.rationales", settings.rationales


def take(stage: StageContext, leader_id: str) -> Next:
    """The leader's set; `Transient` while it has none, `Invalid` when it will never have one."""
    try:
        leader = stage.jobs.get(leader_id)
    except NotFound as error:
        raise _without(f"is gone ({leader_id})") from error
    if leader.rationale_set is None:
        if leader.status in TERMINAL:
            reason = f": {leader.failure.message}" if leader.failure else ""
            raise _without(f"{leader_id} {leader.status} before it had one{reason}")
        raise Transient(
            f"job {leader_id} has no rationale set yet",
            code=WAITS_FOR_JOB,
            retry_after=WAIT_SECONDS,
        )
    stage.say(
        f"takes the rationale set of job {leader_id}: no teacher is asked",
        rationale_set=leader.rationale_set,
    )
    return Next(Stage.TRAINING, {"rationale_set": leader.rationale_set})


def _without(problem: str) -> Invalid:
    return Invalid(
        f"`knowledge_of`: the job whose rationale set this one waits for {problem}; create this "
        "job (or its study) again once that cause is gone: finished teacher outputs are reused",
        param="knowledge_of",
        code="no_knowledge",
    )
