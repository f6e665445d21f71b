from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from qcrd.runtime.http.retry_after import parse_retry_after


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (None, None),
        ("3", 3.0),
        ("1.5", 1.5),
        ("9999", 9999.0),
        ("9" * 400, 86_400.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400.0),
        ("Mon, 01 Jan 0001 00:00:00 -0000", 0.0),
        ("Sun, 06 Nov 1994 08:49:37 +99999999999999999999", None),
        ("soon", None),
        ("-3", None),
        ("nan", None),
        ("", None),
    ],
)
def test_seconds_are_read_and_nothing_else_is(header: str | None, wanted: float | None) -> None:
    assert parse_retry_after(header) == wanted


def test_a_date_is_from_now_and_never_negative() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=10))
    assert 8 <= (parse_retry_after(later) or 0) <= 10
    assert parse_retry_after(format_datetime(datetime.now(UTC) - timedelta(days=1))) == 0.0
