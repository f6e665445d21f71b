"""Base models as a trainer reports them to the gateways, which do not see its folder."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from qcrd.records.base import Record, StoredRecord


class BaseModelInfo(Record):
    """A base model's config.json, {} where it cannot be read, and what is wrong with its files."""

    config: dict[str, Any] = Field(default_factory=dict)
    problem: str | None = None
    """A sentence without its subject, such as "has no config.json"; None: nothing was found."""


class BaseModelReport(StoredRecord):
    """What one trainer could train at `reported_at`, in seconds since the epoch.

    `worker`: the trainer's host. `models`: its models folder by name. `reaches_hub`: whether the
    hub answered it, so that it may download others.
    """

    worker: str
    models: dict[str, BaseModelInfo]
    reaches_hub: bool
    reported_at: float
