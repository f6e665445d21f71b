"""Readiness probes of the stack's parts."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping

import httpx2

Probe = Callable[[], bool]
PROBE_TIMEOUT_SECONDS = 3.0
"""Timeout of one probe, which is repeated."""


def make_probes(ports: Mapping[str, int]) -> dict[str, Probe]:
    """One probe per part; a part without one is ready when it runs."""
    redis_url = f"redis://127.0.0.1:{ports['redis']}/0"
    return {
        "valkey": lambda: is_valkey_up(ports["redis"]),
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


def is_valkey_up(port: int) -> bool:
    try:
        with socket.create_connection(
            ("127.0.0.1", port), timeout=PROBE_TIMEOUT_SECONDS
        ) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
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
