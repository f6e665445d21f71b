"""The connection to Redis or Valkey, and what counts as it being away for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    ConnectionError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry

from qcrd.errors import Transient
from qcrd.runtime.settings import RedisSettings

BLOCK_SECONDS = 10.0
"""Longest blocking read; the socket's own timeout lies above it."""


def connect_redis(settings: RedisSettings, *, retry_seconds: float = 3.0) -> Redis:
    """A client that is connected on its first command, which may be long after the start.

    A lost connection is tried again for about `patience` seconds before a command gives up. A
    command that was interrupted is sent again: callers must not mind it being applied twice.
    """
    return Redis.from_url(
        settings.url,
        decode_responses=True,
        socket_connect_timeout=2.0,
        socket_timeout=BLOCK_SECONDS + 5.0,
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), retries=3 + int(retry_seconds / 0.5)),
    )


@contextmanager
def translate_redis_errors() -> Iterator[None]:
    """Turns what passes by itself, or by an operator's hand, into `Transient`.

    A server whose disk is full answers MISCONF and one that is out of memory OOM: the data it has
    is intact and the same command works once there is room again.
    """
    try:
        yield
    except (ConnectionError, TimeoutError) as error:
        raise Transient(f"Redis does not answer: {error}", code="redis_unavailable") from error
    except (OutOfMemoryError, ReadOnlyError, MasterDownError) as error:
        raise Transient(f"Redis takes no writes: {error}", code="redis_unavailable") from error
    except ResponseError as error:
        if str(error).startswith(("MISCONF", "LOADING", "NOREPLICAS", "OOM")):
            raise Transient(f"Redis takes no writes: {error}", code="redis_unavailable") from error
        raise
