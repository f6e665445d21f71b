"""The marks that options are listed under: (a) to (z), and from the 27th on (aa), (ab), …"""

from __future__ import annotations

from string import ascii_lowercase

MAX_OPTIONS = 26 + 26 * 26
"""Options that have a mark of one or two letters."""


def make_marks(count: int) -> list[str]:
    """Without their brackets; at most `MAX_OPTIONS`."""
    doubles = (first + second for first in ascii_lowercase for second in ascii_lowercase)
    return [*ascii_lowercase, *doubles][:count]


def find_place(mark: str) -> int:
    """The place, from 0, of the option with this mark of one or two ASCII letters."""
    *first, last = (ascii_lowercase.index(letter) for letter in mark.casefold())
    return last if not first else 26 * (first[0] + 1) + last
