"""The routes' dependencies: built once, provided to the app, injected by class."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar, cast

from fastapi import Depends, FastAPI, Request

from qcrd.records.api_keys import ApiKey
from qcrd.runtime.jobs.queue import JobQueue
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.redis.base_model_reports import BaseModelReports, MemoryBaseModelReports
from qcrd.runtime.redis.counters import Counters, MemoryCounters
from qcrd.runtime.redis.event_log import EventLog
from qcrd.runtime.redis.generation_buffer import GenerationBuffer, MemoryGenerationBuffer
from qcrd.runtime.redis.memory import RedisMemory
from qcrd.runtime.redis.teacher_notes import MemoryTeacherNotes, TeacherNotes
from qcrd.runtime.redis.webhook_queue import MemoryWebhookQueue, WebhookQueue
from qcrd.runtime.settings import DiscriminatorAddress, ModelSettings
from qcrd.runtime.storage.hub import ModelHub
from qcrd.runtime.storage.store import Store
from services.api.http.access.api_keys import RELOAD_CHECK_SECONDS
from services.api.http.access.rate_limit import RateLimiter
from services.api.http.idempotency_store import IdempotencyStore, MemoryIdempotencyStore
from services.api.settings import (
    ApiSettings,
    ConnectionLimitSettings,
    FileSettings,
    StudentSettings,
    TeacherSettings,
)
from services.api.webhooks.signing import WebhookSettings

T = TypeVar("T")


@dataclass(frozen=True)
class GatewaySettings:
    api: ApiSettings
    teachers: TeacherSettings
    files: FileSettings
    models: ModelSettings
    connection_limits: ConnectionLimitSettings = field(default_factory=ConnectionLimitSettings)
    webhooks: WebhookSettings = field(default_factory=WebhookSettings)
    discriminator: DiscriminatorAddress = field(default_factory=DiscriminatorAddress)
    students: StudentSettings = field(default_factory=StudentSettings)
    key_reload_check_seconds: float = RELOAD_CHECK_SECONDS


@dataclass(frozen=True)
class SharedState:
    """State shared by all gateways of a system; by default in the memory of one process."""

    generation_buffer: GenerationBuffer = field(default_factory=MemoryGenerationBuffer)
    counters: Counters = field(default_factory=MemoryCounters)
    idempotency_store: IdempotencyStore = field(default_factory=MemoryIdempotencyStore)
    rate_limiter: RateLimiter = field(default_factory=RateLimiter)
    webhook_queue: WebhookQueue = field(default_factory=MemoryWebhookQueue)
    base_model_reports: BaseModelReports = field(default_factory=MemoryBaseModelReports)
    teacher_notes: TeacherNotes = field(default_factory=MemoryTeacherNotes)
    read_redis_memory: Callable[[], RedisMemory] | None = None


@dataclass(frozen=True)
class Gateway:
    store: Store
    jobs: JobStore
    events: EventLog
    queue: JobQueue
    settings: GatewaySettings
    shared: SharedState = field(default_factory=SharedState)
    model_hub: ModelHub = field(default_factory=ModelHub)

    @property
    def webhook_queue(self) -> WebhookQueue:
        """The queue for the webhook of a job's end."""
        return self.shared.webhook_queue


def provide(app: FastAPI, *services: object) -> None:
    """Make `services` available to the routes of `app`, each by its class."""
    app.state.services = {type(service): service for service in services}


def get_service(app: FastAPI, kind: type[T]) -> T:
    """The service of class `kind` that `app` was provided with."""
    return cast(T, app.state.services[kind])


def inject(kind: type[T]) -> Any:
    """The dependency of a route on the service of class `kind`: `Annotated[K, inject(K)]`."""

    def get(request: Request) -> T:
        return get_service(request.app, kind)

    return Depends(get)


def _get_caller(request: Request) -> ApiKey:
    return cast(ApiKey, request.state.key)


GatewayDep = Annotated[Gateway, inject(Gateway)]
CallerDep = Annotated[ApiKey, Depends(_get_caller)]
