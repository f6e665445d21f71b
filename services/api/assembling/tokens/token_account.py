"""Token account of a job: what is spent with its teacher, what may be, and what is in flight.

It is written before a request leaves, so that the cost of a request whose worker was killed is
still known: at most what was reserved for it. Each attempt (a lease of the job) writes fields of
its own, as absolute values: a write that is sent twice, or by a worker that lost its lease, changes
nothing of another attempt's. Fields: `spent:<lease>`, `uncertain:<lease>`, `open:<lease>:<number>`.

A batch outlives attempts, so its fields have the name of its shard: `open:0:<shard>` is reserved
until whichever attempt takes its results writes `spent:<shard>` in its place. A worker that lost
its lease writes the same value there.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass

from qcrd.errors import UnreadableRecord
from qcrd.records.job import Job, Usage
from qcrd.runtime.redis.generation_buffer import AccountUpdate, GenerationBuffer
from services.api.assembling.tokens.token_sums import NOTHING, Tokens
from services.api.settings import TeacherConfig

log = logging.getLogger(__name__)

SHARD_PREFIX = "shard-"
"""Of the names of batches' shards, by which their fields are told from those of leases."""


FIELD_NAME = re.compile(
    rf"spent:(?:\d+|{SHARD_PREFIX}.+)|uncertain:\d+|open:\d+:(?:\d+|{SHARD_PREFIX}.+)"
)


@dataclass(frozen=True)
class Reservation:
    """What one request in flight can cost at most, under its name in the account."""

    name: str
    tokens: Tokens


class TokenAccount:
    """As a run finds it that begins now: what is in flight elsewhere is uncertain. An attempt that
    runs a second time goes on in its own fields. Changes are made in memory and written by `flush`,
    several at once."""

    def __init__(self, buffer: GenerationBuffer, job: Job) -> None:
        self._buffer = buffer
        self._job_id = job.id
        self._lease = job.lease.token
        fields = _select_readable(buffer.read_account(job.id), job.id)
        self.is_new = not fields
        self._shards = _take_open_shards(fields)
        self.shard_count = len(self._shards) + sum(
            name.startswith(f"spent:{SHARD_PREFIX}") for name in fields
        )
        """Of all shards that the job ever wrote down."""
        self._spent = Tokens.parse(fields.pop(self._spent_name, NOTHING.dump()))
        own_uncertain = Tokens.parse(fields.pop(self._uncertain_name, NOTHING.dump()))
        self._uncertain = NOTHING if _is_released(job, self._lease) else own_uncertain
        self._earlier_spent, self._earlier_uncertain = _sum_earlier_runs(fields, job)
        self._open: dict[str, Reservation] = {}
        self._reservation_count = _find_last_reservation(fields, self._lease)
        self._values: dict[str, str] = {}
        self._removed: list[str] = []

    @classmethod
    def open(
        cls, buffer: GenerationBuffer, job: Job, told: Usage, teacher: TeacherConfig
    ) -> TokenAccount:
        """The job's account. One that it had before there were accounts begins with what `told`
        says, and so does one that expired."""
        if (account := cls(buffer, job)).is_new:
            spent = Tokens(
                told.teacher_prompt_tokens, told.teacher_completion_tokens, told.estimated
            )
            uncertain = _price_dearly(told.uncertain, teacher)
            values = {"spent:0": spent.dump(), "uncertain:0": uncertain.dump()}
            buffer.update_account(AccountUpdate(job.id, values))
            return cls(buffer, job)
        return account

    @property
    def _spent_name(self) -> str:
        return f"spent:{self._lease}"

    @property
    def _uncertain_name(self) -> str:
        return f"uncertain:{self._lease}"

    @property
    def spent(self) -> Tokens:
        return self._earlier_spent + self._spent

    @property
    def uncertain(self) -> Tokens:
        return self._earlier_uncertain + self._uncertain

    @property
    def reserved(self) -> Tokens:
        return self.reserved_by_batch + sum((one.tokens for one in self._open.values()), NOTHING)

    @property
    def reserved_by_batch(self) -> Tokens:
        return sum(self._shards.values(), NOTHING)

    @property
    def open_shards(self) -> list[str]:
        """Names of the shards whose results nobody has taken yet."""
        return list(self._shards)

    @property
    def in_flight(self) -> int:
        return len(self._open)

    def fill_usage(self, usage: Usage, teacher: TeacherConfig) -> Usage:
        """`usage` with what the account says of the teacher."""
        spent, uncertain = self.spent, self.uncertain
        cost = spent.compute_cost(teacher)
        return usage.model_copy(
            update={
                "teacher_prompt_tokens": spent.prompt,
                "teacher_completion_tokens": spent.completion,
                "teacher_cached_tokens": spent.cached,
                "cost": cost,
                "currency": None if cost is None else teacher.currency,
                "uncertain": uncertain.total,
                "uncertain_cost": uncertain.compute_cost(teacher),
                "estimated": spent.estimated or uncertain.estimated,
            }
        )

    def reserve(self, tokens: Tokens) -> Reservation:
        self._reservation_count += 1
        name = f"open:{self._lease}:{self._reservation_count}"
        reservation = self._open[name] = Reservation(name, tokens)
        self._values[name] = tokens.dump()
        return reservation

    def settle(
        self, reservation: Reservation, *, spent: Tokens = NOTHING, uncertain: Tokens = NOTHING
    ) -> None:
        """What was reserved is spent, uncertain, or else free again."""
        del self._open[reservation.name]
        if self._values.pop(reservation.name, None) is None:
            self._removed.append(reservation.name)
        if spent != NOTHING:
            self._spent += spent
            self._values[self._spent_name] = self._spent.dump()
        if uncertain != NOTHING:
            self._uncertain += uncertain
            self._values[self._uncertain_name] = self._uncertain.dump()

    def get_shard(self, name: str) -> Tokens:
        """What is reserved for it."""
        return self._shards[name]

    def reserve_shard(self, name: str, tokens: Tokens) -> None:
        """Set aside what a batch can cost at most, for all attempts until one takes its results."""
        self._shards[name] = tokens
        self.shard_count += 1
        self._values[_get_open_name(name)] = tokens.dump()

    def settle_shard(
        self, name: str, *, spent: Tokens = NOTHING, uncertain: Tokens = NOTHING
    ) -> None:
        """What the batch of that shard cost in all. Done twice, it is spent once."""
        del self._shards[name]
        self._values.pop(_get_open_name(name), None)
        self._removed.append(_get_open_name(name))
        self._earlier_spent += spent
        self._values[f"spent:{name}"] = spent.dump()
        if uncertain != NOTHING:
            self._uncertain += uncertain
            self._values[self._uncertain_name] = self._uncertain.dump()

    def flush(self, write: Callable[[AccountUpdate], None] | None = None) -> None:
        """Write all changes since the last time, in one go with what else `write` has to write.
        What could not be written is still there for the next time."""
        if write is None and not self._values and not self._removed:
            return
        update = AccountUpdate(self._job_id, dict(self._values), tuple(self._removed))
        (write or self._buffer.update_account)(update)
        self._values.clear()
        self._removed.clear()


def delete_account(buffer: GenerationBuffer, job_id: str) -> None:
    buffer.update_account(AccountUpdate(job_id, removed=tuple(buffer.read_account(job_id))))


def _select_readable(fields: dict[str, str], job_id: str) -> dict[str, str]:
    """Those whose name and tokens this release knows: a later one may keep more here."""
    readable = {}
    for name, text in fields.items():
        if FIELD_NAME.fullmatch(name) is None:
            continue
        try:
            Tokens.parse(text)
        except UnreadableRecord as error:
            log.error("job %s: its account's field %s is left out: %s", job_id, name, error)
        else:
            readable[name] = text
    return readable


def _get_open_name(shard: str) -> str:
    """Of no lease, whose tokens begin with 1. Earlier releases read it as uncertain."""
    return f"open:0:{shard}"


def _take_open_shards(fields: dict[str, str]) -> dict[str, Tokens]:
    """Take them out of `fields`; the others are of leases."""
    names = [name for name in fields if name.startswith(_get_open_name(SHARD_PREFIX))]
    prefix = _get_open_name("")
    return {name.removeprefix(prefix): Tokens.parse(fields.pop(name)) for name in names}


def _find_last_reservation(fields: dict[str, str], lease: int) -> int:
    own = (name.split(":") for name in fields if name.startswith(f"open:{lease}:"))
    return max((int(number) for *_, number in own), default=0)


def _sum_earlier_runs(fields: dict[str, str], job: Job) -> tuple[Tokens, Tokens]:
    """Spent and uncertain. What an earlier run left in flight is uncertain: its worker is gone, and
    did not say how it ended."""
    spent = uncertain = NOTHING
    for name, text in fields.items():
        kind, lease = name.split(":")[:2]
        if kind == "spent":
            spent += Tokens.parse(text)
        elif not _is_released(job, int(lease)):
            uncertain += Tokens.parse(text)
    return spent, uncertain


def _is_released(job: Job, lease: int) -> bool:
    """Whether a user took what was uncertain of that attempt for not spent."""
    return job.uncertain_released is not None and lease <= job.uncertain_released


def _price_dearly(tokens: int, teacher: TeacherConfig) -> Tokens:
    """Tokens of which only the sum is known, taken to be of the dearer kind."""
    if teacher.prices is not None and teacher.prices.prompt > teacher.prices.completion:
        return Tokens(prompt=tokens)
    return Tokens(completion=tokens)
