"""What the trainer and the discriminator say to each other."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from qcrd.records import JudgeSpec, Record

MAX_PAIRS = 4096
"""Pairs per scoring request: bounds its time on a shared GPU."""


class CreateJudge(Record):
    """`base` is the encoder's model name; `seed` fixes the new layers and every draw."""

    base: str
    spec: JudgeSpec
    seed: int


class WireContrast(Record):
    question: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]


class Pretrain(Record):
    contrasts: tuple[WireContrast, ...]


class Update(Record):
    iteration: Annotated[int, Field(ge=0)]
    contrasts: tuple[WireContrast, ...]
    weight: Annotated[float, Field(ge=0)] = 1.0


class Score(Record):
    pairs: Annotated[tuple[tuple[str, str], ...], Field(max_length=MAX_PAIRS)]


class Restore(Record):
    version: Annotated[int, Field(ge=0)]


class Version(Record):
    """A judge as a training call left it; `flops` is that call's own work."""

    version: int
    health: dict[str, float] = Field(default_factory=dict)
    collapsed: bool = False
    flops: float = 0.0


class Scores(Record):
    scores: tuple[float, ...]
    version: int
    flops: float
