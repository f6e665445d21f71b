"""What people do to a job besides creating it: pause, resume, cancel, delete."""

from __future__ import annotations

import logging
import time

from qcrd.errors import Conflict, Transient
from qcrd.records.api_keys import ApiKey
from qcrd.records.job import Job, JobStatus, Stage
from qcrd.records.spec import Budget
from qcrd.runtime import keys
from qcrd.runtime.jobs import commands as jobs
from qcrd.runtime.jobs.dispatch import wake_next_job
from qcrd.runtime.jobs.finalize import finalize
from qcrd.runtime.jobs.state_machine import TERMINAL, transition
from qcrd.runtime.jobs.store import JobStore
from services.api.dependencies import Gateway
from services.api.http.idempotency import get_event_dedup_key, is_retry
from services.api.http.ownership import check_owner
from services.api.jobs.validation import check_budget

log = logging.getLogger(__name__)


def pause(here: Gateway, job: Job, caller: ApiKey) -> Job:
    """Its training process saves first; what the teacher has answered is kept."""
    check_owner(f"job {job.id}", job.owner, caller)
    reason = f"key {caller.name} asked for it"
    done = is_retry() and job.status is JobStatus.PAUSED
    paused = (
        job
        if done
        else jobs.transition_job(here.jobs, job.id, JobStatus.PAUSED, paused_because=reason)
    )
    _tell(here, paused, f"paused: {reason}", get_event_dedup_key("paused"))
    _make_room(here, paused)
    return paused


def resume(here: Gateway, job: Job, caller: ApiKey, budget: Budget | None = None) -> Job:
    """Goes on where it was; `budget`, where given, replaces the job's."""
    check_owner(f"job {job.id}", job.owner, caller)
    if budget is not None:
        check_budget(job.spec, budget, here.settings)
    now = time.time()
    given = {} if budget is None else {"budget": budget}

    def change(current: Job) -> Job:
        if current.status is not JobStatus.PAUSED:
            raise Conflict(f"job {current.id} is {current.status}, not paused")
        return transition(current, JobStatus.QUEUED, now, {"sent_at": now, **given})

    done = is_retry() and job.status is not JobStatus.PAUSED
    resumed = job if done else here.jobs.update(job.id, change)
    _tell(here, resumed, f"resumed by key {caller.name}", get_event_dedup_key("resumed"))
    try:
        here.queue.send(resumed.stage or Stage.ASSEMBLING, resumed.id)
    except Transient as error:
        log.warning("job %s waits for the reaper to send it: %s", resumed.id, error)
    return resumed


def cancel(here: Gateway, job: Job, caller: ApiKey) -> Job:
    """What the teacher has already answered is kept for the next job."""
    check_owner(f"job {job.id}", job.owner, caller)
    done = is_retry() and job.status is JobStatus.CANCELLED
    cancelled = job if done else jobs.transition_job(here.jobs, job.id, JobStatus.CANCELLED)
    finalize(here, cancelled)
    _make_room(here, cancelled)
    return cancelled


def delete(here: Gateway, job: Job, caller: ApiKey) -> None:
    """Its record, history, states, judges, and what they scored of its set. The set itself and the
    model stay: others use them. The record goes last, so that a deletion that broke off can be
    asked for again."""
    check_owner(f"job {job.id}", job.owner, caller)
    if job.status not in TERMINAL:
        raise Conflict(f"job {job.id} is {job.status}: cancel it first")
    if (reader := _reader(here.jobs, job.id)) is not None:
        raise Conflict(f"job {reader} waits for the rationale set of {job.id}: cancel it first")
    # Its end told and archived first: whoever does that later would bring back what is deleted.
    finalize(here, job)
    if job.rationale_set is not None:  # it names the scores, which go with the job
        here.store.delete(keys.rationale_scores_key(job.rationale_set, job.id))
    for prefix in (keys.job_prefix(job.id), keys.judge_prefix(job.id)):
        for key in here.store.list(prefix):
            here.store.delete(key)
    here.events.delete(job.id)
    here.jobs.delete(job.id)


def _reader(store: JobStore, leader: str) -> str | None:
    """An active job that is to train on the set of `leader` and has not taken it yet."""
    for job in store.iter_active():
        waits = job.status not in TERMINAL and job.rationale_set is None
        if job.spec.knowledge_of == leader and waits:
            return job.id
    return None


def _make_room(here: Gateway, ended: Job) -> None:
    try:
        wake_next_job(here.jobs, here.queue, ended)
    except Transient as error:
        log.warning("waiting jobs are left to the reaper: %s", error)


def _tell(here: Gateway, job: Job, message: str, name: str | None) -> None:
    here.events.append(job.id, message, data={"status": job.status.value}, once=name)
