"""The gateway: what it is made of, put together in one place, and its server."""

from __future__ import annotations

import logging
import socket

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError

import qcrd
from qcrd.runtime.connection import connect
from qcrd.runtime.deliveries import RedisDeliveries
from qcrd.runtime.events import Events, RedisEvents
from qcrd.runtime.jobs import JobStore, RedisJobs
from qcrd.runtime.ledger import RedisLedger
from qcrd.runtime.queue import CeleryQueue, Queue, celery_app
from qcrd.runtime.settings import LogSettings, ModelSettings, RedisSettings, StoreSettings
from qcrd.runtime.store import Store, open_store
from qcrd.runtime.tally import RedisTally
from qcrd.runtime.telemetry import configure_logging, install_http
from services.api.admission import Admission
from services.api.answers import RedisAnswers
from services.api.connections import open_files, protocol
from services.api.discriminators import Discriminators, service_client
from services.api.errors import REFUSALS, install_errors
from services.api.follow import framed
from services.api.gateway import Gateway, Settings, Shared
from services.api.hub import Hub
from services.api.idempotency import Idempotency
from services.api.incoming import Incoming
from services.api.json_bodies import JsonBodies
from services.api.keyring import Keyring
from services.api.metrics import System
from services.api.openapi import install_openapi
from services.api.proxy import StudentServer
from services.api.rates import Rates
from services.api.rationale_sets import RationaleSets
from services.api.routes import (
    completions,
    discriminators,
    files,
    health,
    jobs,
    models,
    rationale_sets,
    studies,
)
from services.api.settings import ApiSettings, FileSettings, TeacherSettings, is_loopback

log = logging.getLogger(__name__)

GOODBYE_SECONDS = 5
"""Longest wait of a stopping server for the answers that are under way."""


def create_app(
    store: Store,
    jobs_: JobStore,
    events: Events,
    queue: Queue,
    settings: Settings,
    shared: Shared | None = None,
) -> FastAPI:
    """`ValueError` for a file of keys that cannot be used."""
    shared = shared or Shared()
    keyring = Keyring(settings.api.keys, settings.api.keys_file)
    _refuse_to_be_open(settings.api, keyring)
    hub = Hub(jobs_, events, framed)
    app = FastAPI(title="qcrd", version=qcrd.__version__, lifespan=hub.lifespan)
    app.state.hub = hub
    app.state.gateway = Gateway(store, jobs_, events, queue, settings, shared)
    app.state.rationale_sets = RationaleSets(store)
    app.state.discriminators = Discriminators(store, service_client(settings.judges))
    for part in (files, jobs, studies, models, rationale_sets, discriminators):
        app.include_router(part.router, responses=REFUSALS)
    students = completions.router(StudentServer(settings.students))
    app.include_router(students, responses=REFUSALS)
    app.include_router(health.router)
    install_errors(app)
    install_openapi(app)
    # The last one added is the outermost: ids and counts, the key, the body's size and pace, JSON.
    app.add_middleware(Idempotency, answers=shared.answers)
    app.add_middleware(JsonBodies)
    seconds = settings.guard.body_seconds
    app.add_middleware(Incoming, file_bytes=settings.files.max_file_bytes, seconds=seconds)
    app.add_middleware(Admission, keyring=keyring, rates=shared.rates)
    install_http(app, "api").register(System(jobs_, shared.tally))
    return app


def connected(settings: Settings) -> FastAPI:
    """The app on the real servers, which are reached on first use: any order of starts will do."""
    redis = connect(RedisSettings())
    return create_app(
        open_store(StoreSettings()),
        RedisJobs(redis),
        RedisEvents(redis),
        CeleryQueue(celery_app(RedisSettings())),
        settings,
        Shared(
            ledger=RedisLedger(redis),
            tally=RedisTally(redis),
            answers=RedisAnswers(redis),
            rates=Rates(RedisSettings().url),
            deliveries=RedisDeliveries(redis),
        ),
    )


def _refuse_to_be_open(settings: ApiSettings, keyring: Keyring) -> None:
    if keyring.empty and not is_loopback(settings.host):
        raise ValueError(
            f"refusing to listen on {settings.host} without API keys: {settings.keys_file} has "
            "none; `qcrd keys new NAME` makes one"
        )


class Server(uvicorn.Server):
    """Ends the event streams when it is told to stop: it waits for them before the lifespan ends,
    and they would never end by themselves."""

    def __init__(self, config: uvicorn.Config, hub: Hub) -> None:
        super().__init__(config)
        self._hub = hub

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._hub.close()
        await super().shutdown(sockets)


def listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = socket.socket(family, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((host.strip("[]"), port))
    except OSError as error:
        server.close()
        raise SystemExit(
            f"cannot listen on {host}:{port}: {error.strerror}; "
            "set QCRD_API_HOST and QCRD_API_PORT to an address that is free here"
        ) from error
    return server


def main() -> None:
    try:
        settings = Settings(ApiSettings(), TeacherSettings(), FileSettings(), ModelSettings())
        level = LogSettings().level
    except ValidationError as error:
        raise SystemExit(f"the environment is wrong: {error}") from error
    configure_logging("api", level)
    try:
        app = connected(settings)
    except ValueError as error:
        raise SystemExit(f"QCRD_API_KEYS_FILE: {error}") from error
    server = listening(settings.api.host, settings.api.port)
    log.info("listening on http://%s:%s", *server.getsockname()[:2])
    open_files(settings.guard.connections)
    config = uvicorn.Config(
        app,
        http=protocol(settings.guard),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GOODBYE_SECONDS,
    )
    Server(config, app.state.hub).run(sockets=[server])


if __name__ == "__main__":
    main()
