"""Operations on a job after its creation: pause, resume, cancel, delete."""

from __future__ import annotations

from qcrd.errors import Conflict
from qcrd.records.api_keys import ApiKey
from qcrd.records.job import Job, JobStatus, Stage
from qcrd.records.specs.spec import Budget
from qcrd.runtime import archive_keys, keys
from qcrd.runtime.jobs import commands as jobs
from qcrd.runtime.jobs.archive.job_archive import JobArchive
from qcrd.runtime.jobs.dispatch import wake_next_job
from qcrd.runtime.jobs.finalize import finalize
from qcrd.runtime.jobs.result_file import delete_result_file
from qcrd.runtime.jobs.state_machine import TERMINAL, transition, with_changes
from qcrd.runtime.jobs.store import JobStore
from services.api.assembling.tokens.token_account import TokenAccount, delete_account
from services.api.dependencies import Gateway
from services.api.http.access.ownership import check_owner
from services.api.http.idempotency import get_event_dedup_key, is_retry
from services.api.jobs.checks.budget_checks import (
    check_covers_usage,
    make_usage_update,
    release_uncertain_tokens,
)
from services.api.jobs.checks.validation import check_budget
from services.api.jobs.enqueueing import enqueue_or_leave_to_reaper


def pause_job(gateway: Gateway, job: Job, caller: ApiKey) -> Job:
    """Pause the job. Its training process saves first; teacher outputs are kept."""
    check_owner(f"job {job.id}", job.owner, caller)
    reason = f"key {caller.name} asked for it"
    already_done = is_retry() and job.status is JobStatus.PAUSED
    paused = (
        job
        if already_done
        else jobs.transition_job(gateway.jobs, job.id, JobStatus.PAUSED, paused_because=reason)
    )
    _append_event(gateway, paused, f"paused: {reason}", get_event_dedup_key("paused"))
    _wake_waiting_jobs(gateway, paused)
    return paused


def resume_job(
    gateway: Gateway,
    job: Job,
    caller: ApiKey,
    budget: Budget | None = None,
    *,
    release_uncertain: bool = False,
) -> Job:
    """Resume the job where it was; `budget`, where given, replaces its own. With
    `release_uncertain`, what may have been spent is taken for not spent."""
    check_owner(f"job {job.id}", job.owner, caller)
    if budget is not None:
        check_budget(job.spec, budget, gateway.settings)
    now, update_usage = gateway.jobs.now(), make_usage_update(gateway, job)
    teacher = gateway.settings.teachers.teachers.get(job.spec.settings.teacher)
    reserved = TokenAccount(gateway.shared.generation_buffer, job).reserved_by_batch
    uncertain: list[int] = []

    def requeue(current: Job) -> Job:
        if current.status is not JobStatus.PAUSED:
            raise Conflict(f"job {current.id} is {current.status}, not paused")
        changed = update_usage(current)
        uncertain.append(changed.usage.uncertain)
        if release_uncertain:
            changed = release_uncertain_tokens(changed)
        if budget is not None:
            check_covers_usage(budget, changed.usage, reserved, teacher)
            changed = with_changes(changed, budget=budget)
        return transition(changed, JobStatus.QUEUED, now, {"sent_at": now})

    already_done = is_retry() and job.status is not JobStatus.PAUSED
    resumed = job if already_done else gateway.jobs.update(job.id, requeue)
    message = f"resumed by key {caller.name}"
    if release_uncertain and uncertain:
        message += f"; {uncertain[-1]:,} uncertain teacher tokens released"
    _append_event(gateway, resumed, message, get_event_dedup_key("resumed"))
    with enqueue_or_leave_to_reaper(f"job {resumed.id}"):
        gateway.queue.send(resumed.stage or Stage.ASSEMBLING, resumed.id)
    return resumed


def cancel_job(gateway: Gateway, job: Job, caller: ApiKey) -> Job:
    """Cancel the job. Its teacher outputs are kept for later jobs."""
    check_owner(f"job {job.id}", job.owner, caller)
    now, update_usage = gateway.jobs.now(), make_usage_update(gateway, job)

    def cancel(current: Job) -> Job:
        return transition(update_usage(current), JobStatus.CANCELLED, now, {})

    already_done = is_retry() and job.status is JobStatus.CANCELLED
    cancelled = job if already_done else gateway.jobs.update(job.id, cancel)
    finalize(gateway, cancelled)
    _wake_waiting_jobs(gateway, cancelled)
    return cancelled


def delete_job(gateway: Gateway, job: Job, caller: ApiKey) -> None:
    """Delete the job's record, events, checkpoints, judges and their scores. Its rationale set and
    model stay, as other jobs use them. The record goes last, so that an interrupted deletion can
    be repeated."""
    check_owner(f"job {job.id}", job.owner, caller)
    if job.status not in TERMINAL:
        raise Conflict(f"job {job.id} is {job.status}: cancel it first")
    if (waiting_job_id := _find_waiting_job(gateway.jobs, job.id)) is not None:
        raise Conflict(
            f"job {waiting_job_id} waits for the rationale set of {job.id}: cancel it first"
        )
    if not job.concluded:  # a later finalization would restore what is deleted here
        finalize(gateway, job)
    archive = JobArchive(gateway.store)
    archive.mark_deleted(job.id)
    if job.rationale_set is not None:  # it names the scores, which are deleted with the job
        gateway.store.delete(keys.rationale_scores_key(job.rationale_set, job.id))
    for prefix in (keys.job_prefix(job.id), keys.judge_prefix(job.id)):
        for key in gateway.store.list(prefix):
            if key != archive_keys.job_record_key(job.id):
                gateway.store.delete(key)
    delete_result_file(gateway.store, job.id)
    gateway.events.delete(job.id)
    delete_account(gateway.shared.generation_buffer, job.id)
    archive.delete(job)
    gateway.jobs.delete(job.id)


def _find_waiting_job(store: JobStore, leader_id: str) -> str | None:
    """An active job that is to train on the set of `leader_id` and has not taken it yet."""
    for job in store.iter_active():
        is_waiting = job.status not in TERMINAL and job.rationale_set is None
        if job.spec.knowledge_of == leader_id and is_waiting:
            return job.id
    return None


def _wake_waiting_jobs(gateway: Gateway, job: Job) -> None:
    with enqueue_or_leave_to_reaper("next job"):
        wake_next_job(gateway.jobs, gateway.queue, job)


def _append_event(gateway: Gateway, job: Job, message: str, once_key: str | None) -> None:
    gateway.events.append(job.id, message, data={"status": job.status.value}, once=once_key)
