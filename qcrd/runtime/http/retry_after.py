"""The header Retry-After: how long a server asks its client to wait (RFC 9110, 10.2.3)."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime

MAX_SECONDS = 86_400.0
"""A server that names a later time means "not today", or has a wrong clock."""


def parse_retry_after(header: str | None) -> float | None:
    """Seconds from now, at most a day; None where the header is missing or neither seconds nor a
    date."""
    if header is None:
        return None
    try:
        if header.replace(".", "", 1).isdecimal():
            seconds = float(header[:9])
        else:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
    except (ValueError, OverflowError, OSError, TypeError):
        return None
    return min(max(0.0, seconds), MAX_SECONDS)
