"""Checks ownership: a resource may be changed by the key that created it and by admins."""

from __future__ import annotations

from qcrd.errors import Forbidden, NotFound
from qcrd.records.api_keys import ApiKey, ApiKeyScope
from qcrd.runtime.jobs.store import JobStore


def check_owner(resource: str, owner: str | None, caller: ApiKey) -> None:
    """`Forbidden` (code `not_owner`) unless `caller` may change `resource`, such as "job ftjob-1".

    `owner` None: the owner is unknown, so only an admin may.
    """
    if owner is None:
        allowed, reason = caller.has_scope(ApiKeyScope.ADMIN), "is of a job that is gone: use"
    else:
        allowed, reason = caller.can_modify(owner), f"was created by key {owner}: use that one, or"
    if not allowed:
        raise Forbidden(f"{resource} {reason} a key with the scope `admin`", code="not_owner")


def get_job_owner(jobs: JobStore, job_id: str | None) -> str | None:
    """The owner of this job's results; None when there is no record of the job."""
    if job_id is None:
        return None
    try:
        return jobs.get(job_id).owner
    except NotFound:
        return None
