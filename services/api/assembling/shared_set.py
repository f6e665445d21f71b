"""The wait for the rationale set of another job, to train on it, or to ask for nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from qcrd.errors import Invalid, NotFound, Transient, UnreadableRecord
from qcrd.records.job import JobStatus, Stage
from qcrd.records.specs.spec import JobSpec
from qcrd.runtime.jobs.stage_context import WAITS_FOR_JOB, NextStage, StageContext
from qcrd.runtime.jobs.state_machine import TERMINAL
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.keys import digest
from qcrd.runtime.redis.asking_turns import AskingTurns
from services.api.assembling.sampling_plan import SamplingParams

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


@contextmanager
def asking_turn(stage: StageContext, turns: AskingTurns, *, by_batch: bool) -> Iterator[None]:
    """The job's turn to ask its teacher, which ends with the block; `Transient` while another job
    asks the same of it, whose outputs are then there to be reused. A job that only waits, for its
    teacher or a batch, keeps its turn."""
    job = stage.job
    work = _describe_work(job.spec, by_batch=by_batch)
    gone = ""
    while (holder := turns.take(work, job.id, instead_of=gone)) != job.id:
        if _may_still_ask(stage.jobs, holder):
            raise Transient(
                f"job {holder} asks the teacher the same questions; its outputs will be reused",
                code=WAITS_FOR_JOB,
                retry_after=POLL_SECONDS,
            )
        gone = holder
    yield
    turns.give_back(work, job.id)


def _describe_work(spec: JobSpec, *, by_batch: bool) -> str:
    """What a job asks for, as a digest. Test questions are left out: jobs that differ in them alone
    share all the others. Nobody who pays for answers at once waits for a batch."""
    settings = spec.settings
    return digest(
        settings.teacher,
        SamplingParams.from_spec(settings.rationales).fingerprint,
        settings.task.model_dump_json(),
        str(spec.training_file),
        str(by_batch),
    )


def _may_still_ask(jobs: JobStore, job_id: str) -> bool:
    """One that is paused, over, or beyond reading keeps nobody waiting; nor does one that was
    resumed and waits for a worker, perhaps for as long as its owner's other jobs run."""
    try:
        job = jobs.get(job_id)
    except (NotFound, UnreadableRecord):
        return False
    return job.status is JobStatus.RUNNING and job.rationale_set is None


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
