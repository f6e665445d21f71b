"""Requests and responses between the trainer and the discriminator."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from qcrd.records.base import Record, StoredRecord

MAX_PAIRS = 4096
"""Pairs per scoring request: bounds its time on a shared GPU."""


class TrainingPairSchema(Record):
    """`sources` are the negatives' sources, in their order, or empty."""

    question: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    sources: tuple[str, ...] = ()

    @model_validator(mode="after")
    def validate_sources(self) -> Self:
        if self.sources and len(self.sources) != len(self.negatives):
            raise ValueError(f"{len(self.sources)} sources for {len(self.negatives)} negatives")
        return self


class PretrainRequest(Record):
    contrasts: tuple[TrainingPairSchema, ...]


class UpdateRequest(Record):
    """`keep` is the oldest version that the caller may resume from; older ones may be deleted."""

    iteration: Annotated[int, Field(ge=0)]
    contrasts: tuple[TrainingPairSchema, ...]
    weight: Annotated[float, Field(ge=0)] = 1.0
    keep: Annotated[int, Field(ge=0)] = 0


class ScoreRequest(Record):
    """`version` is the one to score with; None is the current one."""

    version: Annotated[int | None, Field(ge=0)] = None
    pairs: Annotated[tuple[tuple[str, str], ...], Field(max_length=MAX_PAIRS)]


class RestoreRequest(Record):
    version: Annotated[int, Field(ge=0)]


class JudgeHolder(StoredRecord):
    """The newest lease that asked for a judge, kept so that a restart forgets no older one."""

    token: int = 0


class ScoreResponse(Record):
    scores: tuple[float, ...]
    version: int
    flops: float


class JudgeErrorBody(Record):
    message: str
    type: str
    param: str | None
    code: str


class JudgeErrorResponse(Record):
    """The body of every error response."""

    error: JudgeErrorBody
