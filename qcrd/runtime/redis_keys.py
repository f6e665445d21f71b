"""The keys of Redis; the ids in them are those of `keys`."""

from __future__ import annotations

from typing import Literal

JOBS = "qcrd:jobs"
"""Sorted set of every job id by creation time."""
ACTIVE_JOBS = "qcrd:jobs:active"
"""The same for jobs that are not finalized."""
UNREADABLE_JOBS = "qcrd:jobs:unreadable"
"""Hash of why a job's record cannot be read, by job id."""
REAPER_LOCK = "qcrd:reaper"
"""Lock of the worker that looks for abandoned jobs."""
BATCH_SWEEPER_LOCK = "qcrd:batches:sweeper"
"""Lock of the worker that cancels what ended jobs have with their teachers by batch."""
COUNTERS = "qcrd:tally"
"""Hash of the workers' counters."""
BASE_MODEL_REPORTS = "qcrd:base-models"
"""Hash of the trainers' reports of their base models, by host."""
WEBHOOKS_DUE = "qcrd:webhooks:due"
"""Sorted set of the ids of unsettled webhook deliveries, by due time."""
SWEEPER_LOCK = "qcrd:sweeper"
"""Lock of the worker that moves ended jobs out of Redis."""
STORE_SWEEPER_LOCK = "qcrd:sweeper:store"
"""Lock of the worker that removes what is no longer needed from the object store."""
FILE_EXPIRY_LOCK = "qcrd:files:expiry"
"""Lock of the worker that deletes files whose time is over."""
MEMORY_ALARM_LOCK = "qcrd:memory:alarm"
"""Lock of the worker that says when Redis is nearly full."""
TEACHER_CHECK_LOCK = "qcrd:teachers:checker"
"""Lock of the worker that looks how the teachers are."""


def teacher_note_key(kind: Literal["learnt", "check"], teacher: str) -> str:
    """What a teacher, by the digest of its configuration, does not take or its last check found."""
    return f"qcrd:teacher:{kind}:{teacher}"


def jobs_by_status_key(status: str) -> str:
    """Sorted set of the ids of the jobs in this status, by creation time."""
    return f"qcrd:jobs:status:{status}"


def waiting_jobs_key(task: str) -> str:
    """Sorted set of the ids of the jobs that wait for a worker of `task`, next one last."""
    return f"qcrd:jobs:waiting:{task}"


def held_jobs_key(task: str) -> str:
    """Sorted set of the ids of the jobs that a worker of `task` holds, by lease token."""
    return f"qcrd:jobs:held:{task}"


def running_jobs_key(owner: str) -> str:
    """Sorted set of the ids of this owner's running jobs, by creation time."""
    return f"qcrd:jobs:running:{owner}"


def job_key(job_id: str) -> str:
    return f"qcrd:job:{job_id}"


def events_key(job_id: str) -> str:
    return f"qcrd:events:{job_id}"


def emitted_once_key(job_id: str) -> str:
    """Hash of the job's events that were appended under a name, each to be appended only once."""
    return f"qcrd:told:{job_id}"


def webhook_key(delivery_id: str) -> str:
    return f"qcrd:webhook:{delivery_id}"


def generation_buffer_key(set_key: str) -> str:
    return f"qcrd:ledger:{set_key}"


def token_account_key(job_id: str) -> str:
    """Hash of what the job has reserved and spent with its teacher."""
    return f"qcrd:account:{job_id}"


def asking_turn_key(work: str) -> str:
    """The id of the job whose turn it is to ask a teacher for this, named by a digest."""
    return f"qcrd:turn:{work}"


def idempotency_key(fingerprint: str) -> str:
    return f"qcrd:idempotency:{fingerprint}"
