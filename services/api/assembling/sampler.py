"""Teacher sampler: requests many samples concurrently, through refusals and outages."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qcrd.errors import QcrdError, Transient
from qcrd.runtime.retrying import compute_backoff
from services.api.assembling.budget import TokenBudget
from services.api.assembling.concurrency_limit import ConcurrencyLimit
from services.api.assembling.sampling_plan import SampleRequest, SamplingParams
from services.api.assembling.teacher_client import (
    Completion,
    TeacherClient,
    TeacherGenerationFailed,
    TeacherOverloaded,
    TeacherUnreachable,
)


@dataclass(frozen=True)
class BackoffPolicy:
    """All in seconds. Past `outage_timeout` without the teacher, or `overload_timeout` without one
    answer, the stage gives way to other jobs and comes back later."""

    poll_interval: float = 0.5
    initial_delay: float = 0.25
    max_delay: float = 10.0
    max_retry_after: float = 60.0
    """Most of a Retry-After that is obeyed: a teacher that asks for an hour is asked sooner."""
    outage_timeout: float = 60.0
    overload_timeout: float = 120.0

    def get_delay(self, attempts: int) -> float:
        """Doubled each time, with jitter, so that many refused at once do not return at once."""
        upper_bound = compute_backoff(attempts, self.initial_delay, self.max_delay)
        return upper_bound * random.uniform(0.5, 1.0)


MAX_ATTEMPTS = 4
"""Failures of one request, on a teacher that is up, after which the request is to blame."""


class TeacherSampler:
    """One round of questions. `on_completion` gets each answer at once; `look` is called while
    waiting and before every request, with the reason of an outage or None, and ends the round by
    raising."""

    def __init__(
        self,
        client: TeacherClient,
        sampling: SamplingParams,
        *,
        teacher_fingerprint: str,
        concurrency: int,
        on_completion: Callable[[SampleRequest, Completion], None],
        poll: Callable[[str | None], None],
        backoff: BackoffPolicy,
        budget: TokenBudget,
    ) -> None:
        self._client = client
        self._sampling = sampling
        self._teacher_fingerprint = teacher_fingerprint
        self._concurrency = concurrency
        self._on_completion = on_completion
        self._poll = poll
        self._backoff = backoff
        self._budget = budget
        self._budget_changed = asyncio.Condition()
        self._limit = ConcurrencyLimit(concurrency)
        self._probe_lock = asyncio.Lock()
        self._outage_count = 0
        self._outage: str | None = None
        self._last_completion_at = asyncio.get_running_loop().time()

    async def run(self, requests: Sequence[SampleRequest]) -> None:
        """Until every one is answered and kept. Raises what `look` raises; `Transient` when the
        teacher stays away; `OverBudget` when the next one could cost too much, once nothing is in
        flight any more; `QcrdError` when it refuses for good."""
        pending = deque(requests)
        workers = min(self._concurrency, len(pending))
        try:
            async with asyncio.TaskGroup() as group:
                poll_task = group.create_task(self._poll_loop())
                await asyncio.gather(
                    *(group.create_task(self._run_worker(pending)) for _ in range(workers))
                )
                poll_task.cancel()
        except BaseExceptionGroup as group_error:
            raise group_error.exceptions[0] from group_error

    async def _poll_loop(self) -> None:
        while True:
            self._poll(self._outage)
            await asyncio.sleep(self._backoff.poll_interval)

    async def _run_worker(self, pending: deque[SampleRequest]) -> None:
        while pending:
            await self._sample_with_retries(pending.popleft())

    async def _reserve_budget(self, request: SampleRequest) -> None:
        """Wait until those in flight have cost less than they might have."""
        async with self._budget_changed:
            while not self._budget.reserve(request):
                if not self._budget.in_flight:
                    raise self._budget.make_over_budget_error()
                await self._budget_changed.wait()

    async def _settle_budget(
        self, request: SampleRequest, completion: Completion | None, *, partial: bool
    ) -> None:
        self._budget.settle(request, completion, partial=partial)
        async with self._budget_changed:
            self._budget_changed.notify_all()

    async def _sample_with_retries(self, request: SampleRequest) -> None:
        """Until it is answered and kept."""
        overloads = failures = 0
        while True:
            outage_count = self._outage_count
            try:
                return await self._sample_within_budget(request)
            except TeacherOverloaded as error:
                overloads += 1
                self._check_overload_timeout(error)
                retry_after = min(error.retry_after or 0.0, self._backoff.max_retry_after)
                await asyncio.sleep(max(retry_after, self._backoff.get_delay(overloads)))
            except (TeacherUnreachable, TeacherGenerationFailed) as error:
                failures += 1
                if isinstance(error, TeacherUnreachable):
                    await self._wait_for_recovery(error, outage_count)
                if failures >= MAX_ATTEMPTS:
                    raise _make_retries_exhausted_error(error) from error
                await asyncio.sleep(self._backoff.get_delay(failures))

    async def _sample_within_budget(self, request: SampleRequest) -> None:
        """One try, within the budget."""
        await self._reserve_budget(request)
        completion, partial = None, False
        try:
            completion = await self._send_request(request)
            # At once: settling waits, and may be cancelled while it does.
            self._on_completion(request, completion)
        except (TeacherUnreachable, TeacherGenerationFailed) as error:
            partial = error.has_partial_output
            raise
        finally:
            await self._settle_budget(request, completion, partial=partial)

    async def _send_request(self, request: SampleRequest) -> Completion:
        async with self._limit.slot() as epoch:
            # A process that stood still may find the job gone, and has to pay for nothing then.
            self._poll(self._outage)
            try:
                completion = await self._client.generate(request, self._sampling)
            except TeacherOverloaded:
                self._limit.shrink(epoch)
                raise
            self._limit.grow()
            self._last_completion_at = asyncio.get_running_loop().time()
            return completion

    def _check_overload_timeout(self, error: TeacherOverloaded) -> None:
        silent_seconds = asyncio.get_running_loop().time() - self._last_completion_at
        if silent_seconds > self._backoff.overload_timeout:
            raise Transient(f"{error.message} and has answered nothing for {silent_seconds:.0f} s")

    async def _wait_for_recovery(self, error: TeacherUnreachable, outage_count: int) -> None:
        """Return when the same teacher answers again. One worker asks, the others wait for it."""
        async with self._probe_lock:
            if outage_count != self._outage_count:
                return
            self._outage = error.message
            try:
                await self._probe_until_up(error)
            finally:
                self._outage = None
            self._outage_count += 1
            self._last_completion_at = asyncio.get_running_loop().time()

    async def _probe_until_up(self, error: TeacherUnreachable) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._backoff.outage_timeout
        attempts = 0
        while loop.time() < deadline:
            try:
                fingerprint = await self._client.fetch_fingerprint()
            except TeacherUnreachable as probe_error:
                error, attempts = probe_error, attempts + 1
                await asyncio.sleep(self._backoff.get_delay(attempts))
                continue
            if fingerprint != self._teacher_fingerprint:
                # What is asked from now on belongs to another set: the stage starts over.
                raise Transient("the teacher came back with another model", retry_after=1.0)
            return
        raise Transient(error.message, code="teacher_unreachable")


def _make_retries_exhausted_error(error: TeacherUnreachable | TeacherGenerationFailed) -> QcrdError:
    if isinstance(error, TeacherUnreachable):
        return Transient(error.message, code="teacher_unreachable")
    return QcrdError(
        f"{error.message} ({MAX_ATTEMPTS} times in a row for the same prompt); what was answered "
        "so far "
        "is kept, so the same job costs only the rest",
        code="teacher_failed",
    )
