"""Delivers webhooks that are due: signed, in limited time, again when it failed, told as events.

Every delivery is made at least once; a receiver tells a second one by its `webhook-id`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from dataclasses import dataclass

import httpx2

from qcrd.errors import Invalid, NotFound
from qcrd.records.webhooks import WebhookDelivery
from qcrd.runtime.http import retry_after
from qcrd.runtime.jobs.stage_context import WorkerDeps
from qcrd.runtime.redis.webhook_queue import WebhookQueue
from qcrd.runtime.telemetry import log_exceptions
from services.api.webhooks.signing import WebhookSettings, body, check_webhook, headers, host_of

log = logging.getLogger(__name__)

SCHEDULE = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)
"""Seconds from a failed attempt to the next: Standard Webhooks, "Reliable delivery". After the
tenth, three days and a bit, it is given up."""
JITTER = 0.2
"""Largest share of a wait that is added to it, so that many that failed together part."""
LONGEST_WAIT = 86400.0
"""Most that a receiver's Retry-After can put it off."""
LEASE = 60.0
"""Seconds after which a delivery whose sender fell silent is due again: more than it may take."""
POLL_SECONDS = 1.0
AT_ONCE = 32
"""Deliveries under way: receivers that let us wait hold up no other until so many do."""
GONE = 410


@dataclass(frozen=True)
class Answer:
    """`status` None when none came; `trouble` says what was wrong with it, if anything was."""

    status: int | None
    trouble: str = ""
    retry_after: float = 0.0


async def deliver_forever(
    ports: WorkerDeps, settings: WebhookSettings, stopping: threading.Event
) -> None:
    """Until `stopping`; what is under way then is cut off, and due again after the lease."""
    async with httpx2.AsyncClient(timeout=settings.timeout, follow_redirects=False) as client:
        sending, under_way = Sending(ports, settings, client), set[asyncio.Task[None]]()
        while not stopping.is_set():
            room = AT_ONCE - len(under_way)
            due: list[WebhookDelivery] = []
            with log_exceptions("cannot look for webhooks that are due"):
                due = await asyncio.to_thread(_due, ports.webhook_queue, room)
            under_way |= {asyncio.create_task(sending.deliver(delivery)) for delivery in due}
            if under_way:
                _, under_way = await asyncio.wait(under_way, timeout=POLL_SECONDS)
            if len(due) < room:
                await asyncio.sleep(POLL_SECONDS)
        for task in under_way:
            task.cancel()


def _due(deliveries: WebhookQueue, limit: int) -> list[WebhookDelivery]:
    return deliveries.claim_due(time.time(), lease=LEASE, limit=limit) if limit else []


@dataclass(frozen=True)
class Sending:
    ports: WorkerDeps
    settings: WebhookSettings
    client: httpx2.AsyncClient

    async def deliver(self, delivery: WebhookDelivery) -> None:
        """One attempt, and what follows from it. Raises nothing: the lease repairs what it lost."""
        with log_exceptions(f"webhook {delivery.id} is due again"):
            if await asyncio.to_thread(self._wanted, delivery):
                answer = await self._send(delivery)
                await asyncio.to_thread(self._note, delivery, answer)

    def _wanted(self, delivery: WebhookDelivery) -> bool:
        """Whether its job is still there and the server still sends there; settled if not."""
        try:
            self.ports.jobs.get(delivery.job_id)
            check_webhook(delivery.url, self.settings)
        except NotFound:
            self.ports.webhook_queue.settle(delivery)
            return False
        except Invalid as error:
            self._give_up(delivery, error.message)
            return False
        return True

    async def _send(self, delivery: WebhookDelivery) -> Answer:
        assert self.settings.secret is not None, "hosts are not listed without a secret"
        signed = headers(delivery, time.time(), self.settings.secret)
        try:
            async with (
                asyncio.timeout(self.settings.timeout),
                # Its body is not read: it can be anything.
                self.client.stream(
                    "POST", delivery.url, content=body(delivery), headers=signed
                ) as answer,
            ):
                return understood(answer.status_code, answer.headers.get("retry-after"))
        except TimeoutError:
            return Answer(None, f"no answer within {self.settings.timeout:g} s")
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            # The error's text can hold the URL.
            return Answer(None, f"no answer: {type(error).__name__}")

    def _note(self, delivery: WebhookDelivery, answer: Answer) -> None:
        if not answer.trouble:
            self._end(delivery, "delivered", f"answered {answer.status}")
        elif answer.status == GONE or delivery.attempts > len(SCHEDULE):
            self._give_up(delivery, answer.trouble)
        else:
            wait = pause(delivery.attempts, answer.retry_after, random.random())
            self.ports.webhook_queue.postpone(delivery, time.time() + wait)
            self._count(delivery, "postponed", f"{answer.trouble}; again in {wait:.0f} s")

    def _give_up(self, delivery: WebhookDelivery, why: str) -> None:
        self._end(delivery, "given_up", why)

    def _end(self, delivery: WebhookDelivery, outcome: str, why: str) -> None:
        """Told, then settled: whoever dies in between tells it again, which adds nothing."""
        given_up = outcome == "given_up"
        self.ports.events.append(
            delivery.job_id,
            f"webhook to {host_of(delivery.url)} {outcome.replace('_', ' ')} "
            f"at attempt {delivery.attempts}: {why}",
            level="warn" if given_up else "info",
            data={
                "webhook": {"id": delivery.id, "outcome": outcome, "attempts": delivery.attempts}
            },
            once=f"webhook-{delivery.id}",
        )
        self.ports.webhook_queue.settle(delivery)
        self._count(delivery, outcome, why)

    def _count(self, delivery: WebhookDelivery, outcome: str, why: str) -> None:
        self.ports.counters.increment("webhooks", outcome=outcome)
        data = {
            "job_id": delivery.job_id,
            "webhook_id": delivery.id,
            "outcome": outcome,
            "attempts": delivery.attempts,
            "host": host_of(delivery.url),
        }
        level = logging.INFO if outcome == "delivered" else logging.WARNING
        log.log(level, "webhook %s: %s", outcome, why, extra={"data": data})


def understood(status: int, asked: str | None) -> Answer:
    """2xx is a yes. A redirect is none: it could lead to a host that is not listed. `asked` is the
    answer's Retry-After."""
    if 200 <= status < 300:
        return Answer(status)
    return Answer(status, f"answered {status}", retry_after.parse_retry_after(asked) or 0.0)


def pause(attempts: int, asked: float, chance: float) -> float:
    """Seconds to the next attempt after `attempts` failed ones; `chance` in [0, 1) spreads it."""
    longer = max(SCHEDULE[attempts - 1], min(asked, LONGEST_WAIT))
    return longer * (1 + JITTER * chance)
