"""Delivers due webhooks, signed and with a timeout; retries failures and emits events.

Every delivery is made at least once; a receiver recognises a repeat by its `webhook-id`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx2

from qcrd.errors import Invalid, NotFound
from qcrd.records.webhooks import WebhookDelivery
from qcrd.runtime.http import retry_after
from qcrd.runtime.jobs.stage_context import WorkerDeps
from qcrd.runtime.telemetry import log_exceptions
from services.api.webhooks.signing import (
    WebhookSettings,
    build_payload,
    build_signed_headers,
    check_webhook_url,
    get_host,
)

log = logging.getLogger(__name__)

RETRY_SCHEDULE = (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 50400.0, 72000.0, 86400.0)
"""Seconds from a failed attempt to the next: Standard Webhooks, "Reliable delivery". After the
tenth, a little over three days, it is given up."""
JITTER_RATIO = 0.2
"""Largest share of a delay that is added to it, so that simultaneous failures spread out."""
MAX_RETRY_AFTER_SECONDS = 86400.0
"""The longest Retry-After of a receiver that is obeyed, in seconds."""
LEASE_SECONDS = 60.0
"""Seconds after which a claimed delivery is due again: longer than an attempt can take."""
POLL_SECONDS = 1.0
MAX_IN_FLIGHT = 32
"""Concurrent deliveries: slow receivers delay others only when they occupy all of them."""
HTTP_GONE = 410


@dataclass(frozen=True)
class DeliveryResponse:
    """`status` is None without a response; `error` is None after a success."""

    status: int | None
    error: str = ""
    retry_after: float = 0.0


async def deliver_forever(
    deps: WorkerDeps,
    settings: WebhookSettings,
    stop_event: threading.Event,
    *,
    poll_seconds: float = POLL_SECONDS,
    retry_schedule: Sequence[float] = RETRY_SCHEDULE,
) -> None:
    """Deliver until `stop_event`; attempts in progress are cut off, due again after the lease."""
    async with httpx2.AsyncClient(timeout=settings.timeout, follow_redirects=False) as client:
        sender = WebhookSender(deps, settings, client, retry_schedule)
        in_flight = set[asyncio.Task[None]]()
        while not stop_event.is_set():
            free_slots = MAX_IN_FLIGHT - len(in_flight)
            due: list[WebhookDelivery] = []
            with log_exceptions("cannot claim due webhook deliveries"):
                due = await asyncio.to_thread(_claim_due_deliveries, deps, free_slots)
            in_flight |= {
                asyncio.create_task(sender.attempt_delivery(delivery)) for delivery in due
            }
            if in_flight:
                _, in_flight = await asyncio.wait(in_flight, timeout=poll_seconds)
            if len(due) < free_slots:
                await asyncio.sleep(poll_seconds)
        for task in in_flight:
            task.cancel()


def _claim_due_deliveries(deps: WorkerDeps, limit: int) -> list[WebhookDelivery]:
    if not limit:
        return []
    return deps.webhook_queue.claim_due(deps.jobs.now(), lease=LEASE_SECONDS, limit=limit)


@dataclass(frozen=True)
class WebhookSender:
    deps: WorkerDeps
    settings: WebhookSettings
    client: httpx2.AsyncClient
    retry_schedule: Sequence[float] = RETRY_SCHEDULE

    async def attempt_delivery(self, delivery: WebhookDelivery) -> None:
        """Make and record one attempt. Raises nothing: an unrecorded one is due after the lease."""
        with log_exceptions(f"webhook {delivery.id} is due again"):
            if await asyncio.to_thread(self._check_still_wanted, delivery):
                response = await self._send(delivery)
                await asyncio.to_thread(self._record_outcome, delivery, response)

    def _check_still_wanted(self, delivery: WebhookDelivery) -> bool:
        """Whether its job still exists and its host is still allowed; settled if not."""
        try:
            self.deps.jobs.get(delivery.job_id)
            check_webhook_url(delivery.url, self.settings)
        except NotFound:
            self.deps.webhook_queue.settle(delivery)
            return False
        except Invalid as error:
            self._give_up(delivery, error.message)
            return False
        return True

    async def _send(self, delivery: WebhookDelivery) -> DeliveryResponse:
        assert self.settings.secret is not None, "hosts are not listed without a secret"
        signed_headers = build_signed_headers(delivery, time.time(), self.settings.secret)
        try:
            async with (
                asyncio.timeout(self.settings.timeout),
                # Its body is not read: it can be anything.
                self.client.stream(
                    "POST", delivery.url, content=build_payload(delivery), headers=signed_headers
                ) as response,
            ):
                return parse_response(response.status_code, response.headers.get("retry-after"))
        except TimeoutError:
            return DeliveryResponse(None, f"no answer within {self.settings.timeout:g} s")
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            # The error's text can hold the URL.
            return DeliveryResponse(None, f"no answer: {type(error).__name__}")

    def _record_outcome(self, delivery: WebhookDelivery, response: DeliveryResponse) -> None:
        if not response.error:
            self._finish_delivery(delivery, "delivered", f"responded {response.status}")
        elif response.status == HTTP_GONE or delivery.attempts > len(self.retry_schedule):
            self._give_up(delivery, response.error)
        else:
            retry_delay = compute_retry_delay(
                delivery.attempts, response.retry_after, random.random(), self.retry_schedule
            )
            self.deps.webhook_queue.postpone(delivery, self.deps.jobs.now() + retry_delay)
            self._count_and_log(
                delivery, "postponed", f"{response.error}; again in {retry_delay:.0f} s"
            )

    def _give_up(self, delivery: WebhookDelivery, reason: str) -> None:
        self._finish_delivery(delivery, "given_up", reason)

    def _finish_delivery(self, delivery: WebhookDelivery, outcome: str, reason: str) -> None:
        """Emit the event, then settle: after a crash in between the repeat adds nothing."""
        is_given_up = outcome == "given_up"
        self.deps.events.append(
            delivery.job_id,
            f"webhook to {get_host(delivery.url)} {outcome.replace('_', ' ')} "
            f"at attempt {delivery.attempts}: {reason}",
            level="warn" if is_given_up else "info",
            data={
                "webhook": {"id": delivery.id, "outcome": outcome, "attempts": delivery.attempts}
            },
            once=f"webhook-{delivery.id}",
        )
        self.deps.webhook_queue.settle(delivery)
        self._count_and_log(delivery, outcome, reason)

    def _count_and_log(self, delivery: WebhookDelivery, outcome: str, reason: str) -> None:
        self.deps.counters.increment("webhooks", outcome=outcome)
        data = {
            "job_id": delivery.job_id,
            "webhook_id": delivery.id,
            "outcome": outcome,
            "attempts": delivery.attempts,
            "host": get_host(delivery.url),
        }
        level = logging.INFO if outcome == "delivered" else logging.WARNING
        log.log(level, "webhook %s: %s", outcome, reason, extra={"data": data})


def parse_response(status: int, retry_after_header: str | None) -> DeliveryResponse:
    """The outcome of a response: 2xx is a success. A redirect is not: it could lead to a host that
    is not listed. Includes its Retry-After."""
    if 200 <= status < 300:
        return DeliveryResponse(status)
    return DeliveryResponse(
        status, f"responded {status}", retry_after.parse_retry_after(retry_after_header) or 0.0
    )


def compute_retry_delay(
    attempts: int,
    retry_after_seconds: float,
    jitter_fraction: float,
    retry_schedule: Sequence[float] = RETRY_SCHEDULE,
) -> float:
    """Seconds to the next attempt after `attempts` failed ones; `jitter_fraction` in [0, 1) spreads
    it."""
    delay = max(retry_schedule[attempts - 1], min(retry_after_seconds, MAX_RETRY_AFTER_SECONDS))
    return delay * (1 + JITTER_RATIO * jitter_fraction)
