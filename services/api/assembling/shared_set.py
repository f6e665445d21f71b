"""The wait for the rationale set of another job, to train on it, or to ask for nothing twice."""

from __future__ import annotations

from qcrd.errors import Invalid, NotFound, Transient
from qcrd.records.job import Stage
from qcrd.runtime.jobs.stage_context import WAITS_FOR_JOB, NextStage, StageContext
from qcrd.runtime.jobs.state_machine import TERMINAL

POLL_SECONDS = 5.0
"""Seconds between two checks for a set that does not exist yet."""


def wait_for_set(stage: StageContext, job_id: str) -> None:
    """`Transient` while that job may still ask the teacher; one that is gone asks nothing."""
    try:
        other = stage.jobs.get(job_id)
    except NotFound:
        return
    if other.rationale_set is None and other.status not in TERMINAL:
        raise Transient(
            f"job {job_id} asks the teacher first",
            code=WAITS_FOR_JOB,
            retry_after=POLL_SECONDS,
        )


def take_shared_set(stage: StageContext, leader_id: str) -> NextStage:
    """The leader's set; `Transient` while it has none, `Invalid` when it will never have one."""
    try:
        leader = stage.jobs.get(leader_id)
    except NotFound as error:
        raise _shared_set_error(f"is gone ({leader_id})") from error
    if leader.rationale_set is None:
        if leader.status in TERMINAL:
            reason = f": {leader.failure.message}" if leader.failure else ""
            raise _shared_set_error(f"{leader_id} {leader.status} before it had one{reason}")
        raise Transient(
            f"job {leader_id} has no rationale set yet",
            code=WAITS_FOR_JOB,
            retry_after=POLL_SECONDS,
        )
    stage.emit(
        f"takes the rationale set of job {leader_id}: no teacher is asked",
        rationale_set=leader.rationale_set,
    )
    return NextStage(Stage.TRAINING, {"rationale_set": leader.rationale_set})


def _shared_set_error(problem: str) -> Invalid:
    return Invalid(
        f"`knowledge_of`: the job whose rationale set this one waits for {problem}; create this "
        "job (or its study) again once that cause is gone: finished teacher outputs are reused",
        param="knowledge_of",
        code="no_knowledge",
    )
