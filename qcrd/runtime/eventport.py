"""What a job's history is: the port, and the ids that order it.

An id is `<milliseconds>-<sequence>`, both zero-padded, so that ids sort as strings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, Protocol

from qcrd.errors import Invalid
from qcrd.records import Event

Level = Literal["info", "warn", "error"]
Type = Literal["message", "metrics"]

FIRST = "0000000000000-000000"
"""Before every event."""
WATCHED = 200

_ID = re.compile(r"([0-9]{1,15})-([0-9]{1,9})")


class Events(Protocol):
    def append(
        self,
        job_id: str,
        message: str,
        *,
        level: Level = "info",
        type: Type = "message",
        data: dict[str, Any] | None = None,
        once: str | None = None,
    ) -> Event:
        """The event, which a call adds exactly once however often its command had to be resent.

        `once` names what is told: of each name a job has one event, and every later call returns
        that one, as it was first told, and adds nothing.
        """

    def read(
        self,
        job_id: str,
        after: str | None = None,
        limit: int = 100,
        *,
        block_ms: int | None = None,
        newest_first: bool = False,
    ) -> list[Event]:
        """At most `limit` events beyond the one with id `after`, which is itself left out.

        `newest_first` reads backwards, and `after` then means older. With `block_ms` a read that
        finds nothing waits that long (at most 10 s) for the next event. A malformed `after` is
        `Invalid`; one that names no event reads on from where it would have been.
        """

    def watch(self, cursors: Mapping[str, str], block_ms: int) -> dict[str, list[Event]]:
        """What each job has beyond the event id it is given with, of those that have anything.

        At most `WATCHED` events of a job at a time. When no job has any, one call on one connection
        waits `block_ms` (at most 10 s) for the first of all of them.
        """

    def delete(self, job_id: str) -> None:
        """Forget the history and the names told once; idempotent."""


def event_id(milliseconds: int, sequence: int) -> str:
    return f"{milliseconds:013d}-{sequence:06d}"


def numbers(given: str, param: str = "after") -> tuple[int, int]:
    """The milliseconds and the sequence of an id; `Invalid`, naming `param`, for anything else."""
    match = _ID.fullmatch(given)
    if match is None:
        raise Invalid(f"`{param}`: {given[:80]!r} is not an event id", param=param)
    return int(match[1]), int(match[2])


def event(job_id: str, at: tuple[int, int], fields: dict[str, Any]) -> Event:
    return Event(id=event_id(*at), job_id=job_id, created_at=at[0] / 1000, **fields)
