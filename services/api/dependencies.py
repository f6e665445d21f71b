"""What the routes work with, built once by `main` and handed to each of them by FastAPI."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, cast

from fastapi import Depends, Request

from qcrd.records.api_keys import ApiKey
from qcrd.runtime.jobs.queue import JobQueue
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.redis.counters import Counters, MemoryCounters
from qcrd.runtime.redis.event_log import EventLog
from qcrd.runtime.redis.generation_buffer import GenerationBuffer, MemoryGenerationBuffer
from qcrd.runtime.redis.webhook_queue import MemoryWebhookQueue, WebhookQueue
from qcrd.runtime.settings import ModelSettings
from qcrd.runtime.storage.store import Store
from services.api.discriminators.service import JudgeServiceSettings
from services.api.files.upload import Uploads
from services.api.http.idempotency_store import Answers, MemoryAnswers
from services.api.http.rate_limit import Rates
from services.api.jobs.validation_cache import Verdicts
from services.api.settings import (
    ApiSettings,
    FileSettings,
    GuardSettings,
    StudentSettings,
    TeacherSettings,
)
from services.api.webhooks.signing import WebhookSettings


@dataclass(frozen=True)
class Settings:
    api: ApiSettings
    teachers: TeacherSettings
    files: FileSettings
    models: ModelSettings
    guard: GuardSettings = field(default_factory=GuardSettings)
    webhooks: WebhookSettings = field(default_factory=WebhookSettings)
    judges: JudgeServiceSettings = field(default_factory=JudgeServiceSettings)
    students: StudentSettings = field(default_factory=StudentSettings)


@dataclass(frozen=True)
class Shared:
    """What all gateways of a system know together; by default what one process knows alone."""

    ledger: GenerationBuffer = field(default_factory=MemoryGenerationBuffer)
    tally: Counters = field(default_factory=MemoryCounters)
    answers: Answers = field(default_factory=MemoryAnswers)
    rates: Rates = field(default_factory=Rates)
    deliveries: WebhookQueue = field(default_factory=MemoryWebhookQueue)


@dataclass(frozen=True)
class Gateway:
    store: Store
    jobs: JobStore
    events: EventLog
    queue: JobQueue
    settings: Settings
    shared: Shared = field(default_factory=Shared)
    uploads: Uploads = field(default_factory=Uploads)
    verdicts: Verdicts = field(default_factory=Verdicts)

    @property
    def deliveries(self) -> WebhookQueue:
        """Where the end of a job leaves its webhook."""
        return self.shared.deliveries


def _of(request: Request) -> Gateway:
    return cast(Gateway, request.app.state.gateway)


def _caller(request: Request) -> ApiKey:
    return cast(ApiKey, request.state.key)


Here = Annotated[Gateway, Depends(_of)]
Caller = Annotated[ApiKey, Depends(_caller)]
