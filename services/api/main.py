"""The gateway's process: its environment, its socket, its server."""

from __future__ import annotations

import logging
import socket

import uvicorn

from qcrd.runtime.settings import LogSettings, ModelSettings, load_settings
from qcrd.runtime.telemetry import configure_logging
from services.api.app import create_app_from_settings
from services.api.dependencies import GatewaySettings, get_service
from services.api.events.broadcaster import EventBroadcaster
from services.api.http.uvicorn_protocol import make_protocol_class, raise_open_file_limit
from services.api.settings import ApiSettings, FileSettings, TeacherSettings

log = logging.getLogger(__name__)

SHUTDOWN_TIMEOUT_SECONDS = 5
"""Seconds that a stopping server waits for the responses in progress."""


class GatewayServer(uvicorn.Server):
    """A server that ends the event streams when it stops: uvicorn waits for open responses before
    the lifespan ends, and these would never end by themselves."""

    def __init__(self, config: uvicorn.Config, broadcaster: EventBroadcaster) -> None:
        super().__init__(config)
        self._broadcaster = broadcaster

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._broadcaster.close()
        await super().shutdown(sockets)


def bind_socket(host: str, port: int) -> socket.socket:
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
    settings = load_settings(
        lambda: GatewaySettings(ApiSettings(), TeacherSettings(), FileSettings(), ModelSettings())
    )
    configure_logging("api", load_settings(LogSettings).level)
    try:
        app = load_settings(lambda: create_app_from_settings(settings))
    except ValueError as error:
        raise SystemExit(f"QCRD_API_KEYS_FILE: {error}") from error
    server = bind_socket(settings.api.host, settings.api.port)
    log.info("listening on http://%s:%s", *server.getsockname()[:2])
    raise_open_file_limit(settings.connection_limits.connections)
    config = uvicorn.Config(
        app,
        http=make_protocol_class(settings.connection_limits),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_SECONDS,
    )
    GatewayServer(config, get_service(app, EventBroadcaster)).run(sockets=[server])


if __name__ == "__main__":
    main()
