"""The teacher process: settings, one engine, one server. `python -m services.teacher.main`"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import uvicorn
from fastapi import FastAPI

from qcrd.errors import Invalid
from qcrd.runtime.settings import LogSettings, load_settings
from qcrd.runtime.telemetry import configure_logging
from services.teacher.app import create_app
from services.teacher.engines.base import Engine, FallibleEngine
from services.teacher.engines.factory import build_engine
from services.teacher.settings import EngineSettings, ServerSettings

log = logging.getLogger("teacher")
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def main() -> int:
    """Exit status: 0 after a drained stop, 1 when the model cannot be had."""
    configure_logging("teacher", load_settings(LogSettings).level)
    settings, engine_settings = load_settings(ServerSettings), load_settings(EngineSettings)
    # Uvicorn raises the signal again once it has drained; this makes that a normal return.
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        engine = build_engine(engine_settings)
    except Invalid as error:
        return _exit_with_error(error.message)
    # uvloop where it is installed, which `asyncio.run` would not take.
    with asyncio.Runner(loop_factory=uvicorn.Config("", loop="auto").get_loop_factory()) as runner:
        return runner.run(serve(engine, settings))


async def serve(engine: Engine, settings: ServerSettings) -> int:
    """Serve until a signal; requests get a 503 while the model loads."""
    app = create_app(engine, settings)
    failures: list[str] = []
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=settings.teacher_host,
            port=settings.port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=settings.graceful_termination_timeout,
        )
    )

    def report_failure(reason: str) -> None:
        failures.append(reason)
        server.should_exit = True

    app.router.lifespan_context = make_lifespan(engine, report_failure)
    await server.serve()
    return _exit_with_error(failures[0]) if failures else int(not server.started)


def make_lifespan(engine: Engine, on_failure: Callable[[str], None]) -> Lifespan:
    """Load the engine while the server runs; close it after the last response has been sent. Where
    it fails, now or later, the server ends."""
    if isinstance(engine, FallibleEngine):
        engine.on_failure = on_failure

    @asynccontextmanager
    async def run(app: FastAPI) -> AsyncIterator[None]:
        async def load() -> None:
            # The process boundary: any exception of the load ends the process with one line.
            try:
                await engine.start()
            except Exception as error:
                on_failure(error.message if isinstance(error, Invalid) else f"MODEL_ID: {error}")
                return
            app.state.inference.mark_ready()
            log.info("model loaded: %s", engine.info)

        load_task = asyncio.ensure_future(load())
        try:
            yield
        finally:
            load_task.cancel()
            await engine.close()

    return run


def _exit_with_error(reason: str) -> int:
    print(f"teacher: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
