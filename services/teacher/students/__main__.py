"""The process that serves published students. `python -m services.teacher.students`

It loads nothing before the first request: until then torch and transformers are not imported.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import uvicorn
from fastapi import FastAPI

from qcrd.runtime import keys
from qcrd.runtime.settings import (
    DiscriminatorAddress,
    LogSettings,
    StoreSettings,
    load_settings,
)
from qcrd.runtime.storage.store import open_store
from qcrd.runtime.telemetry import configure_logging
from services.teacher.settings import EngineSettings, ServerSettings
from services.teacher.students.app import create_students_app
from services.teacher.students.judge_client import JudgeClient
from services.teacher.students.loading import LoadedStudent, StudentLoader
from services.teacher.students.model_cache import ModelCache
from services.teacher.students.settings import StudentsSettings

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def main() -> int:
    """Exit status: 0 after a drained stop, 1 when the environment is wrong or the port taken."""
    configure_logging("students", load_settings(LogSettings).level)
    # Uvicorn raises the signal again once it has drained; this makes that a normal return.
    signal.signal(signal.SIGTERM, lambda *_: None)
    settings = load_settings(StudentsSettings)
    threads = load_settings(EngineSettings).teacher_threads
    # The gateway has checked the key already and expects our extensions, not strict TGI.
    server = load_settings(lambda: ServerSettings(api_key=None, tgi_strict=False))
    return asyncio.run(serve(settings, server, threads))


async def serve(settings: StudentsSettings, server: ServerSettings, threads: int) -> int:
    store = open_store(load_settings(StoreSettings))
    judge = JudgeClient(load_settings(DiscriminatorAddress).url)
    loader = StudentLoader(store, server, judge, threads=threads, slots=settings.slots)
    cache: ModelCache[LoadedStudent] = ModelCache(
        loader, max_models=settings.loaded, max_waiting=settings.queue
    )
    app = create_students_app(cache, server, lambda: store.list(keys.model_prefix("ready")))
    app.router.lifespan_context = _make_lifespan(cache, judge)
    uvicorn_server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=server.graceful_termination_timeout,
        )
    )
    await uvicorn_server.serve()
    return int(not uvicorn_server.started)


def _make_lifespan(cache: ModelCache[LoadedStudent], judge: JudgeClient) -> Lifespan:
    @asynccontextmanager
    async def run(app: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await cache.close()
            await judge.close()

    return run


if __name__ == "__main__":
    sys.exit(main())
