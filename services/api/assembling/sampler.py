"""Teacher sampler: requests many samples concurrently and survives refusals and outages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence

from qcrd.errors import QcrdError, Transient
from services.api.assembling.backoff_policy import BackoffPolicy
from services.api.assembling.pending_requests import PendingRequests
from services.api.assembling.refusals import RefusalLog
from services.api.assembling.sampling_plan import (
    PromptRequest,
    SampleRequest,
    SamplingParams,
    group_by_prompt,
)
from services.api.assembling.serving import AnswerTimer
from services.api.assembling.teacher.concurrency_limit import ConcurrencyLimit
from services.api.assembling.teacher.prompt_refused import PromptRefused
from services.api.assembling.teacher.prompt_tokens import PromptTokenCounter
from services.api.assembling.teacher.teacher_client import (
    Completion,
    StreamProgress,
    TeacherClient,
    match_samples,
)
from services.api.assembling.teacher.teacher_errors import (
    TeacherGenerationFailed,
    TeacherOverloaded,
    TeacherUnreachable,
)
from services.api.assembling.tokens.token_account import Reservation
from services.api.assembling.tokens.token_budget import TokenBudget
from services.api.assembling.tokens.token_sums import NOTHING, Tokens

MAX_ATTEMPTS = 4
"""Failures of one request on a reachable teacher after which the job fails."""


class TeacherSampler:
    """One round of questions. `on_completions` gets the samples of each answer at once, already
    settled in the budget's account, and writes both. `poll` is called while waiting and before
    every request, with the reason of an outage or None, and ends the round by raising. Without
    `refusals` the first prompt that is refused ends it. `concurrency` counts samples."""

    def __init__(
        self,
        client: TeacherClient,
        sampling: SamplingParams,
        *,
        teacher_fingerprint: str,
        concurrency: int,
        on_completions: Callable[[Sequence[tuple[SampleRequest, Completion]]], None],
        poll: Callable[[str | None], None],
        backoff: BackoffPolicy,
        budget: TokenBudget,
        prompt_tokens: PromptTokenCounter,
        refusals: RefusalLog | None = None,
        timer: AnswerTimer | None = None,
    ) -> None:
        self._client = client
        self._sampling = sampling
        self._teacher_fingerprint = teacher_fingerprint
        self._concurrency = concurrency
        self._on_completions = on_completions
        self._poll = poll
        self._backoff = backoff
        self._budget = budget
        self._refusals = refusals
        self._prompt_tokens = prompt_tokens
        self._timer = timer or AnswerTimer()
        self._account_error: QcrdError | None = None
        self._budget_changed = asyncio.Condition()
        self._limit = ConcurrencyLimit(concurrency)
        self._pending = PendingRequests(())
        self._probe_lock = asyncio.Lock()
        self._outage_count = 0
        self._outage: str | None = None
        self._last_completion_at = asyncio.get_running_loop().time()

    async def run(self, requests: Iterable[PromptRequest]) -> None:
        """Return when every sample is completed and kept; requests are taken as they are made.

        Raises what `poll` raises; `Transient` when the teacher stays unreachable; `OverBudget`
        when the next request could cost too much, once none is in flight; `QcrdError` when the
        teacher refuses for good.
        """
        self._pending = PendingRequests(requests)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._poll_loop())]
                tasks += [group.create_task(self._run_worker()) for _ in range(self._concurrency)]
                await self._pending.wait_until_done()
                for task in tasks:
                    task.cancel()
        except BaseExceptionGroup as group_error:
            raise group_error.exceptions[0] from group_error

    async def _poll_loop(self) -> None:
        while True:
            self._poll(self._outage)
            await asyncio.sleep(self._backoff.poll_interval)

    async def _run_worker(self) -> None:
        while True:
            request = await self._pending.get(min(self._client.max_choices, self._concurrency))
            if self._refusals is None or not self._refusals.skips(request.prompt):
                await self._sample_with_retries(request)
            self._pending.mark_done()

    async def _reserve_budget(self, request: PromptRequest) -> tuple[Reservation, PromptRequest]:
        """Wait until those in flight have cost less than they might have. Of several samples those
        are asked for that the budget covers."""
        prompt = await self._prompt_tokens.count(request.prompt.text)
        async with self._budget_changed:
            while True:
                completion = self._sampling.max_new_tokens * len(request.samples)
                tokens = prompt + Tokens(completion=completion)
                if (reservation := self._budget.reserve(tokens)) is not None:
                    return reservation, request
                if self._budget.in_flight:
                    await self._budget_changed.wait()
                elif len(request.samples) == 1:
                    raise self._budget.make_over_budget_error(tokens)
                else:
                    request = request.split(len(request.samples) - 1)[0]

    async def _write_reservations(self) -> None:
        """Of all requests that are about to leave: those that reserve in the same turn of the loop
        are written at once, and the others find nothing left to write."""
        await asyncio.sleep(0)
        if self._account_error is not None:
            raise self._account_error
        try:
            self._budget.account.flush()
        except QcrdError as error:
            self._account_error = error
            raise

    async def _notify_budget_changed(self) -> None:
        async with self._budget_changed:
            self._budget_changed.notify_all()

    async def _sample_with_retries(self, request: PromptRequest) -> None:
        """Retry one request until it is completed and kept. Samples that the answer lacks are put
        back, to be asked for again."""
        overloads = failures = 0
        while True:
            outage_count, completed = self._outage_count, set[SampleRequest]()
            try:
                await self._sample_within_budget(request, completed)
                return self._put_back(request, completed)
            except PromptRefused as error:
                if self._refusals is None:
                    raise
                return self._refusals.add(request, error)
            except TeacherOverloaded as error:
                overloads += 1
                self._check_overload_timeout(error)
                await asyncio.sleep(self._backoff.get_overload_delay(overloads, error.retry_after))
            except (TeacherUnreachable, TeacherGenerationFailed) as error:
                failures += 1
                if isinstance(error, TeacherUnreachable):
                    await self._wait_for_recovery(error, outage_count)
                if failures >= MAX_ATTEMPTS:
                    raise _make_retries_exhausted_error(error) from error
                await asyncio.sleep(self._backoff.get_delay(failures))
            if completed:  # before the answer broke off
                return self._put_back(request, completed)

    def _put_back(self, request: PromptRequest, completed: Collection[SampleRequest]) -> None:
        for missing in group_by_prompt(each for each in request.samples if each not in completed):
            self._pending.put(missing)

    async def _sample_within_budget(
        self, request: PromptRequest, completed: set[SampleRequest]
    ) -> None:
        """One try, within the budget, for the first samples of `request` or all. `completed` gets
        those that came, also where this raises."""

        def count_samples() -> int:
            # Fewer than there were, if an answer has told meanwhile that no more are given.
            return min(len(request.samples), self._client.max_choices)

        async with self._limit.slot(count_samples) as epoch:
            first = request.split(count_samples())[0]
            reservation, request = await self._reserve_budget(first)
            progress = StreamProgress(is_free=True)
            try:
                await self._write_reservations()
                # A process that stood still may find the job gone, and has to pay for nothing then.
                self._poll(self._outage)
                await self._send_request(request, epoch, progress)
            finally:
                # At once: what follows waits, and may be cancelled while it does.
                if progress.completions:
                    self._settle_completed(reservation, request, progress.completions, completed)
                else:
                    self._settle_broken(reservation, progress)
                await self._notify_budget_changed()

    async def _send_request(
        self, request: PromptRequest, epoch: int, progress: StreamProgress
    ) -> None:
        progress.is_free = False
        started = asyncio.get_running_loop().time()
        try:
            await self._client.generate(request, self._sampling, progress)
        except TeacherOverloaded:
            self._limit.shrink(epoch)
            raise
        self._limit.grow(len(progress.completions))
        self._last_completion_at = asyncio.get_running_loop().time()
        self._timer.add(started, self._last_completion_at, len(progress.completions))

    def _settle_completed(
        self,
        reservation: Reservation,
        request: PromptRequest,
        completions: Sequence[Completion],
        completed: set[SampleRequest],
    ) -> None:
        spent = sum((_count_spent(each) for each in completions), NOTHING)
        if not spent.estimated:
            self._prompt_tokens.learn(request.prompt.text, spent.prompt)
        self._budget.account.settle(reservation, spent=spent)
        matched = match_samples(request.samples, completions)
        completed.update(sample for sample, _ in matched)
        self._on_completions(matched)

    def _settle_broken(self, reservation: Reservation, progress: StreamProgress) -> None:
        """What came is spent, and with it the prompt; the rest may be. Written with what is written
        next: until then all that was reserved is uncertain."""
        reserved = reservation.tokens
        if progress.told is not None:
            self._budget.account.settle(reservation, spent=progress.told)
        elif progress.is_free:
            self._budget.account.settle(reservation)
        elif not progress.streamed_tokens:
            self._budget.account.settle(reservation, uncertain=reserved)
        else:
            streamed = min(progress.streamed_tokens, reserved.completion)
            rest = Tokens(completion=reserved.completion - streamed)
            spent = Tokens(reserved.prompt, streamed, reserved.estimated)
            self._budget.account.settle(reservation, spent=spent, uncertain=rest)

    def _check_overload_timeout(self, error: TeacherOverloaded) -> None:
        silent_seconds = asyncio.get_running_loop().time() - self._last_completion_at
        if silent_seconds > self._backoff.overload_timeout:
            raise Transient(f"{error.message} and has completed nothing for {silent_seconds:.0f} s")

    async def _wait_for_recovery(self, error: TeacherUnreachable, outage_count: int) -> None:
        """Return when the same teacher is reachable again. One worker probes, the others wait."""
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
        loop, at_upstream = asyncio.get_running_loop(), error.at_upstream
        deadline = loop.time() + self._backoff.outage_timeout
        attempts = 0
        while loop.time() < deadline:
            try:
                fingerprint = (await self._client.fetch_info()).fingerprint
                if at_upstream:
                    await self._client.check_upstream()
            except TeacherUnreachable as probe_error:
                error, attempts = probe_error, attempts + 1
                await asyncio.sleep(self._backoff.get_delay(attempts))
                continue
            if fingerprint != self._teacher_fingerprint:
                # Another model's outputs belong to another set: the stage starts over.
                raise Transient("the teacher came back with another model", retry_after=1.0)
            return
        raise Transient(error.message, code="teacher_unreachable")


def _count_spent(completion: Completion) -> Tokens:
    return Tokens(
        completion.prompt_tokens,
        completion.completion_tokens,
        completion.estimated,
        completion.cached_tokens,
    )


def _make_retries_exhausted_error(error: TeacherUnreachable | TeacherGenerationFailed) -> QcrdError:
    if isinstance(error, TeacherUnreachable):
        return Transient(error.message, code="teacher_unreachable")
    return QcrdError(
        f"{error.message} ({MAX_ATTEMPTS} times in a row for the same prompt); what was answered "
        "so far "
        "is kept, so the same job costs only the rest",
        code="teacher_failed",
    )
