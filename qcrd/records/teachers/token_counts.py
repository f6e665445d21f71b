"""Numbers of tokens as servers tell them, which are money and not to be taken unseen."""

from __future__ import annotations

MOST_TOKENS = 10**9
"""Of one answer: more is no count."""


def read_token_count(value: object) -> int | None:
    """The count, also one written as `12.0`; None for what is no whole number of tokens."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # A fraction, an infinity or NaN is none either.
    if not 0 <= value <= MOST_TOKENS or value != int(value):
        return None
    return int(value)
