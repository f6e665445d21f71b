"""Whether a secret got out: into a log, a record, an event or an answer."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any, cast

from redis import Redis


def found_in(content: bytes, secrets: Iterable[str]) -> list[str]:
    """Those of `secrets` that are in `content`, as they are or in base64."""
    return [
        secret
        for secret in secrets
        if secret.encode() in content or base64.b64encode(secret.encode()) in content
    ]


def dumped(redis: Redis) -> dict[str, bytes]:
    """Everything in the database, by key."""
    return {key: repr(_value(redis, key)).encode() for key in redis.scan_iter(count=1000)}


def _value(redis: Redis, key: str) -> Any:
    match cast(str, redis.type(key)):
        case "string":
            return redis.get(key)
        case "hash":
            return redis.hgetall(key)
        case "zset":
            return redis.zrange(key, 0, -1)
        case "set":
            return redis.smembers(key)
        case "list":
            return redis.lrange(key, 0, -1)
        case "stream":
            return redis.xrange(key)
        case "none":
            return None  # it expired since its name was read
        case other:
            raise AssertionError(f"{key} is a {other}, which nobody looks into here")
