"""A webhook that is owed to somebody."""

from __future__ import annotations

from qcrd.records.base import Record


class WebhookDelivery(Record):
    """What became of job `job_id` at `created_at`, for `url`. `id` is the same at every attempt, so
    that a receiver who gets it twice can tell."""

    id: str
    job_id: str
    url: str
    type: str
    created_at: float
    attempts: int = 0
    """Begun so far, this one included. It fences: only who began the latest one settles it."""
