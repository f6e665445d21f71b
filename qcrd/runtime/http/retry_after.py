"""The header Retry-After: how long a server asks its client to wait (RFC 9110, 10.2.3)."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime


def parse_retry_after(header: str | None) -> float | None:
    """Seconds from now; None where the header is missing or neither seconds nor a date."""
    if header is None:
        return None
    if header.replace(".", "", 1).isdecimal():
        return float(header[:9])
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None
