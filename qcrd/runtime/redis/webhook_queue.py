"""The queue of webhook deliveries: kept until settled, each sent by one sender at a time."""

from __future__ import annotations

import logging
import threading
from typing import Any, Protocol, cast

from redis import Redis

from qcrd.errors import UnreadableRecord
from qcrd.records.base import parse_stored_record
from qcrd.records.webhooks import WebhookDelivery
from qcrd.runtime import redis_keys
from qcrd.runtime.redis.connection import translate_redis_errors

log = logging.getLogger(__name__)

SETTLED_TTL_SECONDS = 30 * 86400
"""Seconds for which a settled delivery's id is remembered, so that it is not added again: far
longer than a finished job may wait to be finalized."""

ADD_SCRIPT = """
if redis.call('HSETNX', KEYS[1], 'delivery', ARGV[1]) == 1 then
  redis.call('ZADD', KEYS[2], ARGV[2], ARGV[3])
end
"""
CLAIM_SCRIPT = """
local taken = {}
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
for _, id in ipairs(due) do
  local key = ARGV[4] .. id
  redis.call('ZADD', KEYS[1], ARGV[2], id)
  local attempts = redis.pcall('HINCRBY', key, 'attempts', 1)
  if type(attempts) == 'number' then
    table.insert(taken, {redis.call('HGET', key, 'delivery'), attempts})
  else
    table.insert(taken, {attempts['err'], -1, id})
  end
end
return taken
"""
"""One whose count of attempts is damaged is no error of the whole claim."""
SETTLE_SCRIPT = """
if redis.call('HGET', KEYS[1], 'attempts') ~= ARGV[1] then return 0 end
if ARGV[3] ~= '' then return redis.call('ZADD', KEYS[2], 'XX', ARGV[3], ARGV[2]) end
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('HDEL', KEYS[1], 'attempts')
redis.call('EXPIRE', KEYS[1], ARGV[4])
"""


class WebhookQueue(Protocol):
    """Every method raises `Transient` while Redis is unavailable."""

    def add(self, delivery: WebhookDelivery) -> None:
        """Add a delivery, due at once. Does nothing if its id was added before, even if settled."""

    def claim_due(self, now: float, *, lease: float, limit: int) -> list[WebhookDelivery]:
        """At most `limit` due deliveries, the earliest first, each with one more attempt counted.

        No other sender gets them for `lease` seconds; then they are due again, unless settled.
        """

    def postpone(self, delivery: WebhookDelivery, until: float) -> None:
        """Make it due again at `until`; no effect if another attempt has begun."""

    def settle(self, delivery: WebhookDelivery) -> None:
        """Remove it from the due ones; no effect if another attempt has begun."""


class MemoryWebhookQueue:
    def __init__(self) -> None:
        self._deliveries: dict[str, WebhookDelivery] = {}
        self._due: dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, delivery: WebhookDelivery) -> None:
        with self._lock:
            if delivery.id not in self._deliveries:
                self._deliveries[delivery.id] = delivery
                self._due[delivery.id] = delivery.created_at

    def claim_due(self, now: float, *, lease: float, limit: int) -> list[WebhookDelivery]:
        with self._lock:
            due = sorted((at, id) for id, at in self._due.items() if at <= now)
            return [self._begin_attempt(id, now + lease) for _, id in due[:limit]]

    def _begin_attempt(self, delivery_id: str, until: float) -> WebhookDelivery:
        before = self._deliveries[delivery_id]
        attempt = before.model_copy(update={"attempts": before.attempts + 1})
        self._deliveries[delivery_id], self._due[delivery_id] = attempt, until
        return attempt

    def postpone(self, delivery: WebhookDelivery, until: float) -> None:
        with self._lock:
            if delivery.id in self._due and self._deliveries[delivery.id] == delivery:
                self._due[delivery.id] = until

    def settle(self, delivery: WebhookDelivery) -> None:
        with self._lock:
            if self._deliveries.get(delivery.id) == delivery:
                self._due.pop(delivery.id, None)


class RedisWebhookQueue:
    """A hash per delivery, and a sorted set of the ids of unsettled ones by due time."""

    def __init__(self, redis: Redis) -> None:
        self._add_script = redis.register_script(ADD_SCRIPT)
        self._claim_script = redis.register_script(CLAIM_SCRIPT)
        self._settle_script = redis.register_script(SETTLE_SCRIPT)

    def add(self, delivery: WebhookDelivery) -> None:
        names = [redis_keys.webhook_key(delivery.id), redis_keys.WEBHOOKS_DUE]
        with translate_redis_errors():
            self._add_script(names, [delivery.model_dump_json(), delivery.created_at, delivery.id])

    def claim_due(self, now: float, *, lease: float, limit: int) -> list[WebhookDelivery]:
        # After a lost reply the script claims others; the first ones are due again after the lease.
        with translate_redis_errors():
            rows = self._claim_script(
                [redis_keys.WEBHOOKS_DUE], [now, now + lease, limit, redis_keys.webhook_key("")]
            )
        claimed = []
        for body, attempts, *damaged in cast("list[list[Any]]", rows):
            if damaged:
                log.error("webhook delivery %s is not sent, it is damaged: %s", damaged[0], body)
            elif (delivery := _parse_delivery(body)) is not None:
                claimed.append(delivery.model_copy(update={"attempts": attempts}))
        return claimed

    def postpone(self, delivery: WebhookDelivery, until: float) -> None:
        self._finish_attempt(delivery, str(until))

    def settle(self, delivery: WebhookDelivery) -> None:
        self._finish_attempt(delivery, "")

    def _finish_attempt(self, delivery: WebhookDelivery, until: str) -> None:
        names = [redis_keys.webhook_key(delivery.id), redis_keys.WEBHOOKS_DUE]
        with translate_redis_errors():
            self._settle_script(names, [delivery.attempts, delivery.id, until, SETTLED_TTL_SECONDS])


def _parse_delivery(body: str | None) -> WebhookDelivery | None:
    """None, and a line in the log, for one of another release, or without a body: it is due again
    after the lease."""
    try:
        return parse_stored_record(WebhookDelivery, body or "", "a webhook delivery")
    except UnreadableRecord as error:
        log.error("not sent: %s", error)
        return None
