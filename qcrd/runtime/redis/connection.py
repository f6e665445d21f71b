"""The connection to Redis or Valkey, and its errors that are worth a retry."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,
    MasterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry

from qcrd.errors import Transient, UnreadableRecord
from qcrd.runtime.settings import RedisSettings

BLOCK_SECONDS = 10.0
"""Longest blocking read; the socket's timeout is longer."""


def connect_redis(settings: RedisSettings, *, retry_seconds: float = 3.0) -> Redis:
    """A client that connects on its first command.

    A command retries a lost connection for about `retry_seconds`. An interrupted command is sent
    again, so callers must tolerate that it is applied twice.

    A value that is no UTF-8 is read as a text that no parser takes, and not as an error of the
    whole reply: the one record is damaged and not those beside it. Written back it is the same
    bytes.
    """
    return Redis.from_url(
        settings.url,
        decode_responses=True,
        encoding_errors="surrogateescape",
        socket_connect_timeout=2.0,
        socket_timeout=BLOCK_SECONDS + 5.0,
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), retries=3 + int(retry_seconds / 0.5)),
    )


@contextmanager
def translate_redis_errors() -> Iterator[None]:
    """Raise `Transient` for errors that pass by themselves or by an operator's action.

    A server with a full disk returns MISCONF, one without memory OOM: its data is intact, and the
    same command works once there is space again. `UnreadableRecord` for a key with a value of
    another type than this release keeps there.
    """
    try:
        yield
    except AuthenticationError as error:
        message = f"Redis refuses the password: {error}; check the one in QCRD_REDIS_URL"
        raise Transient(message, code="redis_unavailable") from error
    except (ConnectionError, TimeoutError) as error:
        message = f"Redis does not respond: {error} (QCRD_REDIS_URL says where it is)"
        raise Transient(message, code="redis_unavailable") from error
    except (OutOfMemoryError, ReadOnlyError, MasterDownError) as error:
        raise Transient(f"Redis takes no writes: {error}", code="redis_unavailable") from error
    except ResponseError as error:
        if str(error).startswith(("MISCONF", "LOADING", "NOREPLICAS", "OOM")):
            raise Transient(f"Redis takes no writes: {error}", code="redis_unavailable") from error
        if str(error).startswith("WRONGTYPE"):
            message = f"a key of Redis has a value that this release cannot read: {error}"
            raise UnreadableRecord(message) from error
        raise
