"""Builds the gateway's app from its services, middleware and routes."""

from __future__ import annotations

from functools import partial

from fastapi import Depends, FastAPI

import qcrd
from qcrd.runtime.http.error_responses import install_error_handlers
from qcrd.runtime.jobs.archive.open_history import open_event_history, open_job_history
from qcrd.runtime.jobs.queue import CeleryJobQueue, JobQueue, create_celery_app
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.redis.base_model_reports import RedisBaseModelReports
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.redis.counters import RedisCounters
from qcrd.runtime.redis.event_log import EventLog
from qcrd.runtime.redis.generation_buffer import RedisGenerationBuffer
from qcrd.runtime.redis.memory import read_redis_memory
from qcrd.runtime.redis.teacher_notes import RedisTeacherNotes
from qcrd.runtime.redis.webhook_queue import RedisWebhookQueue
from qcrd.runtime.settings import RedisSettings, StoreSettings
from qcrd.runtime.storage.hub import ModelHub
from qcrd.runtime.storage.store import Store, open_store
from qcrd.runtime.telemetry import install_http_telemetry
from services.api import health
from services.api.completions import routes as completions
from services.api.completions.student_client import StudentClient
from services.api.dependencies import Gateway, GatewaySettings, SharedState, provide
from services.api.discriminators import routes as discriminators
from services.api.discriminators.service import DiscriminatorService, make_service_client
from services.api.events.broadcaster import EventBroadcaster
from services.api.events.sse import encode_event
from services.api.files import routes as files
from services.api.files.upload import UploadService
from services.api.http.access.api_keys import ApiKeyStore
from services.api.http.access.auth import AuthMiddleware
from services.api.http.access.local_requests import LocalRequestMiddleware
from services.api.http.access.rate_limit import RateLimiter
from services.api.http.access.shares import GatewayShares
from services.api.http.body_limits import BodyLimitMiddleware
from services.api.http.errors import ERROR_RESPONSES
from services.api.http.idempotency import IdempotencyMiddleware
from services.api.http.idempotency_store import RedisIdempotencyStore
from services.api.http.json_middleware import JsonMiddleware
from services.api.http.openapi import DocumentedApp
from services.api.http.paths import TrailingSlashMiddleware
from services.api.http.query_checks import check_query
from services.api.job_metrics import ActiveJobsCollector
from services.api.jobs import routes as jobs
from services.api.jobs.checks.validation_cache import ValidationCache
from services.api.metrics import SystemCollector
from services.api.models import routes as models
from services.api.rationale_sets import routes as rationale_sets
from services.api.rationale_sets.service import RationaleSetService
from services.api.settings import ApiSettings, is_loopback
from services.api.studies import routes as studies


def create_app(
    store: Store,
    job_store: JobStore,
    events: EventLog,
    queue: JobQueue,
    settings: GatewaySettings,
    shared: SharedState | None = None,
    model_hub: ModelHub | None = None,
) -> FastAPI:
    """`ValueError` for a file of keys that cannot be used."""
    shared = shared or SharedState()
    api_keys = ApiKeyStore(
        settings.api.keys,
        settings.api.keys_file,
        reload_check_seconds=settings.key_reload_check_seconds,
    )
    _require_keys_beyond_loopback(settings.api, api_keys)
    broadcaster = EventBroadcaster(job_store, events, encode_event)
    app = DocumentedApp(title="qcrd", version=qcrd.__version__, lifespan=broadcaster.lifespan)
    provide(
        app,
        Gateway(store, job_store, events, queue, settings, shared, model_hub or ModelHub()),
        broadcaster,
        UploadService(),
        GatewayShares(),
        ValidationCache(),
        RationaleSetService(store, job_store),
        DiscriminatorService(store, make_service_client(settings.discriminator)),
        StudentClient(settings.students),
        readiness := health.ReadinessNote(),
    )
    for route_module in (files, jobs, studies, models, rationale_sets, discriminators, completions):
        app.include_router(
            route_module.router, responses=ERROR_RESPONSES, dependencies=[Depends(check_query)]
        )
    app.include_router(files.uploads_router)
    app.include_router(health.router)
    install_error_handlers(app)
    # The last one added is the outermost: telemetry, API key, path, body limits, JSON.
    app.add_middleware(IdempotencyMiddleware, store=shared.idempotency_store)
    app.add_middleware(JsonMiddleware)
    body_timeout_seconds = settings.connection_limits.body_seconds
    app.add_middleware(
        BodyLimitMiddleware,
        max_file_bytes=settings.files.max_file_bytes,
        timeout_seconds=body_timeout_seconds,
    )
    app.add_middleware(TrailingSlashMiddleware)
    if not api_keys.auth_required:
        app.add_middleware(LocalRequestMiddleware)
    app.add_middleware(AuthMiddleware, api_keys=api_keys, rate_limiter=shared.rate_limiter)
    registry = install_http_telemetry(app, "api")
    registry.register(SystemCollector(job_store, shared.counters, shared.read_redis_memory))
    registry.register(ActiveJobsCollector(job_store))
    registry.register(readiness.gauge)
    return app


def create_app_from_settings(settings: GatewaySettings) -> FastAPI:
    """The app on the real servers. It connects on first use, so they may start in any order."""
    redis, store = connect_redis(RedisSettings()), open_store(StoreSettings())
    return create_app(
        store,
        open_job_history(redis, store),
        open_event_history(redis, store),
        CeleryJobQueue(create_celery_app(RedisSettings())),
        settings,
        SharedState(
            generation_buffer=RedisGenerationBuffer(redis),
            counters=RedisCounters(redis),
            idempotency_store=RedisIdempotencyStore(redis),
            rate_limiter=RateLimiter(RedisSettings().url),
            webhook_queue=RedisWebhookQueue(redis),
            base_model_reports=RedisBaseModelReports(redis),
            teacher_notes=RedisTeacherNotes(redis),
            read_redis_memory=partial(read_redis_memory, redis),
        ),
    )


def _require_keys_beyond_loopback(settings: ApiSettings, api_keys: ApiKeyStore) -> None:
    if api_keys.is_empty and not is_loopback(settings.host):
        raise ValueError(
            f"refusing to listen on {settings.host} without API keys: {settings.keys_file} has "
            "none; `qcrd keys new NAME` makes one"
        )
