"""The header Retry-After: how long another server asks to be left alone (RFC 9110, 10.2.3)."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime


def parse_retry_after(header: str | None) -> float | None:
    """From now; None where the header is not given or is neither seconds nor a date."""
    if header is None:
        return None
    if header.replace(".", "", 1).isdecimal():
        return float(header[:9])
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None
