"""Searches the jobs by their metadata."""

from __future__ import annotations

from collections.abc import Mapping

from qcrd.records.job import Job
from qcrd.runtime.jobs.store import JobStore

SEARCH_PAGE_SIZE = 100
"""Records read at once."""


def find_jobs(
    jobs: JobStore, after: str | None, limit: int, *, metadata: Mapping[str, str]
) -> list[Job]:
    """At most `limit` jobs, newest first, that are older than job `after` and whose metadata has
    all the pairs of `metadata`."""
    if not metadata:
        return jobs.list(after, limit)
    found: list[Job] = []
    while page := jobs.list(after, SEARCH_PAGE_SIZE):
        found += [job for job in page if metadata.items() <= job.spec.metadata.items()]
        if len(found) >= limit:
            break
        after = page[-1].id
    return found[:limit]
