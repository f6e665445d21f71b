"""The broker's transport: a worker waits while Redis refuses writes, as it does while it is away.

Celery ends a worker at any error that its transport does not name a connection's, and with it the
job that the worker runs. A server without memory (OOM) or disk (MISCONF) is not that bad.
"""

from __future__ import annotations

from kombu.transport import TRANSPORT_ALIASES
from kombu.transport.redis import Transport
from redis.exceptions import ResponseError

SCHEMES = ("redis", "rediss")


class WaitingTransport(Transport):
    connection_errors = (*Transport.connection_errors, ResponseError)


def install_waiting_transport() -> None:
    """Let URLs of Redis use it. Idempotent."""
    name = f"{WaitingTransport.__module__}:{WaitingTransport.__name__}"
    TRANSPORT_ALIASES.update(dict.fromkeys(SCHEMES, name))
