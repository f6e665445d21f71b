"""A webhook delivery."""

from __future__ import annotations

from qcrd.records.base import StoredRecord


class WebhookDelivery(StoredRecord):
    """The notification to `url` that job `job_id` ended at `created_at`. `id` is the same at every
    attempt, so that the receiver can recognise duplicates."""

    id: str
    job_id: str
    url: str
    type: str
    created_at: float
    attempts: int = 0
    """Attempts begun so far. It fences: only the latest attempt can settle the delivery."""
