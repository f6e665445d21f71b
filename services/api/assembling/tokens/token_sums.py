"""Sums of tokens of which prompt and completion have prices of their own."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Self

from qcrd.errors import UnreadableRecord
from services.api.settings import TeacherConfig


@dataclass(frozen=True)
class Tokens:
    """Prompt and completion tokens, whose prices differ. `estimated`: the teacher did not count
    all of them. `cached`: those of the prompt that the provider had read before. `batched`: prompt,
    completion and cached tokens among these that come by batch, at the price of batches."""

    prompt: int = 0
    completion: int = 0
    estimated: bool = False
    cached: int = 0
    batched: tuple[int, int, int] = (0, 0, 0)

    @property
    def total(self) -> int:
        return self.prompt + self.completion

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(
            self.prompt + other.prompt,
            self.completion + other.completion,
            self.estimated or other.estimated,
            self.cached + other.cached,
            _add_batched(self.batched, other.batched),
        )

    def by_batch(self) -> Self:
        """The same, all of them by batch."""
        return replace(self, batched=(self.prompt, self.completion, self.cached))

    def compute_cost(self, teacher: TeacherConfig) -> float | None:
        """None where no price is known."""
        full = teacher.compute_cost(self.prompt, self.completion, self.cached)
        batched = teacher.compute_cost(*self.batched)
        if full is None or batched is None:
            return None
        return full - (1 - teacher.batch_factor) * batched

    def dump(self) -> str:
        """Without what there is none of, as earlier releases read it."""
        batched = self.batched if any(self.batched) else ()
        cached = [self.cached] if self.cached or batched else []
        return json.dumps([self.prompt, self.completion, int(self.estimated), *cached, *batched])

    @classmethod
    def parse(cls, text: str) -> Self:
        """`UnreadableRecord` for what is damaged. What a later release wrote behind the known
        numbers is not read."""
        try:
            numbers = json.loads(text)
            if not all(type(number) is int and number >= 0 for number in numbers):
                raise ValueError("not all are counts")
            prompt, completion, estimated, *more = numbers
            cached, *batched = more or [0]
            return cls(prompt, completion, bool(estimated), cached, _read_batched(batched))
        except (TypeError, ValueError) as error:
            raise UnreadableRecord(f"the tokens {text[:80]!r} cannot be read: {error}") from error


def _add_batched(one: tuple[int, int, int], other: tuple[int, int, int]) -> tuple[int, int, int]:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


def _read_batched(values: list[int]) -> tuple[int, int, int]:
    prompt, completion, cached, *_ = values or (0, 0, 0)
    return prompt, completion, cached


NOTHING = Tokens()
