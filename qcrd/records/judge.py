"""A quality judge as it is created, and as each of its training calls leaves it."""

from __future__ import annotations

from pydantic import Field

from qcrd.records.base import Record
from qcrd.records.job import JudgeHistograms
from qcrd.records.spec import JudgeSpec


class CreateJudgeRequest(Record):
    """`base` is the encoder's model name; `seed` fixes the new layers and every draw."""

    base: str
    spec: JudgeSpec
    seed: int


class JudgeVersion(Record):
    """A judge as a training call left it; `flops` is that call's own work. `health` is flat
    (`qcrd.method.judge.health.numbers`); `histograms` is None before any training."""

    version: int
    health: dict[str, float] = Field(default_factory=dict)
    histograms: JudgeHistograms | None = None
    collapsed: bool = False
    flops: float = 0.0
