"""Readiness probes of the stack's parts."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping

import httpx2

from qcrd.cli.stack.home import StoreKeys

Probe = Callable[[], bool]
PROBE_TIMEOUT_SECONDS = 3.0
"""Timeout of one probe, which is repeated."""


def make_redis_url(port: int, keys: StoreKeys) -> str:
    return f"redis://:{keys.redis_password}@127.0.0.1:{port}/0"


def make_probes(ports: Mapping[str, int], keys: StoreKeys) -> dict[str, Probe]:
    """One probe per part; a part without one is ready when it runs."""
    redis_url = make_redis_url(ports["redis"], keys)
    return {
        "valkey": lambda: is_valkey_up(ports["redis"], keys.redis_password),
        "seaweedfs": lambda: is_http_ok(f"http://127.0.0.1:{ports['s3']}/healthz"),
        "teacher": lambda: is_http_ok(f"http://127.0.0.1:{ports['teacher']}/ready"),
        "students": lambda: is_http_ok(f"http://127.0.0.1:{ports['students']}/ready"),
        "discriminator": lambda: is_http_ok(f"http://127.0.0.1:{ports['discriminator']}/ready"),
        "api": lambda: is_http_ok(f"http://127.0.0.1:{ports['api']}/ready"),
        "trainer": lambda: is_worker_up(redis_url, "trainer@qcrd"),
        "api-worker": lambda: is_worker_up(redis_url, "api-worker@qcrd"),
    }


def is_http_ok(url: str) -> bool:
    try:
        with httpx2.Client(trust_env=False, timeout=PROBE_TIMEOUT_SECONDS) as client:
            return client.get(url).is_success
    except httpx2.HTTPError:
        return False


def is_valkey_up(port: int, password: str) -> bool:
    try:
        with socket.create_connection(
            ("127.0.0.1", port), timeout=PROBE_TIMEOUT_SECONDS
        ) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            replies = connection.makefile("rb")
            # A Procfile of the user's own may start it without a password, which AUTH then is told.
            replies.readline()
            return replies.readline().startswith(b"+PONG")
    except OSError:
        return False


def is_worker_up(redis_url: str, name: str) -> bool:
    """Whether the Celery worker `name` responds."""
    from kombu.exceptions import OperationalError

    from qcrd.runtime.jobs.queue import create_celery_app
    from qcrd.runtime.settings import RedisSettings

    logging.getLogger("kombu").setLevel(logging.ERROR)
    app = create_celery_app(RedisSettings(url=redis_url))
    try:
        return bool(app.control.ping(destination=[name], timeout=1.5, limit=1))
    except (OperationalError, OSError):
        return False
    finally:
        app.close()
