"""How long a teacher that refuses or is away is waited for."""

from __future__ import annotations

import random
from dataclasses import dataclass

from qcrd.runtime.retrying import compute_backoff


@dataclass(frozen=True)
class BackoffPolicy:
    """All in seconds. After `outage_timeout` without the teacher, or `overload_timeout` without a
    completion, the stage lets other jobs run and is retried later."""

    poll_interval: float = 0.5
    initial_delay: float = 0.25
    max_delay: float = 10.0
    max_retry_after: float = 60.0
    """The longest Retry-After that is obeyed; after a longer one the teacher is retried sooner."""
    outage_timeout: float = 60.0
    overload_timeout: float = 120.0
    batch_lookup: float = 30.0
    """After a request for a batch that was not answered, until the teacher's list has the batch if
    there is one; then it is asked for again."""

    def get_delay(self, attempts: int) -> float:
        """Doubled each time, with jitter, so that many refused at once do not return at once."""
        upper_bound = compute_backoff(attempts, self.initial_delay, self.max_delay)
        return upper_bound * random.uniform(0.5, 1.0)

    def get_overload_delay(self, attempts: int, retry_after: float | None) -> float:
        """That delay, and not before the teacher wants to be asked again."""
        return max(min(retry_after or 0.0, self.max_retry_after), self.get_delay(attempts))
