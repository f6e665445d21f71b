"""A quality judge: the request that creates it, and its state after each training call."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_serializer

from qcrd.records.base import Record, StoredRecord
from qcrd.records.job import JudgeHistograms
from qcrd.records.specs.spec import list_added_defaults
from qcrd.records.specs.training_spec import JudgeSpec

LEASE_TOKEN_HEADER = "X-QCRD-Lease-Token"
"""With every call of a trainer to the discriminator: the token of its lease on the job."""


def get_judge_version(iteration: int) -> int:
    """The version that is updated in `iteration`: 0 is untrained and 1, before the first, is
    pretrained."""
    return iteration + 2


class CreateJudgeRequest(Record):
    """`base` is the encoder's model name; `seed` fixes the new layers and every draw.

    It is sent and stored without the defaults of fields that an earlier release lacks: that one
    compares requests with stored ones, and would find another spec.
    """

    base: str
    spec: JudgeSpec
    seed: int

    @field_serializer("spec")
    def leave_out_added_defaults(self, spec: JudgeSpec) -> dict[str, Any]:
        added = list_added_defaults("discriminator", spec)
        return spec.model_dump(mode="json", exclude=added)


class JudgeVersion(StoredRecord):
    """A judge's state after a training call; `flops` is the work of that call. `health` is flat
    (`qcrd.method.judge.health.numbers`); `histograms` is None before any training."""

    version: int
    health: dict[str, float] = Field(default_factory=dict)
    histograms: JudgeHistograms | None = None
    collapsed: bool = False
    flops: float = 0.0
