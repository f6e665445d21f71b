"""Runs a request: permit, validation, generation, metrics, in that order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import replace
from time import monotonic

from services.teacher.engines.base import ChoiceEngine, Engine, Token, ValidGenerateRequest
from services.teacher.errors import (
    GenerationFailed,
    IncompleteGeneration,
    ModelLoading,
    Overloaded,
    TeacherError,
)
from services.teacher.inference.gathering import gather_results, merge_streams
from services.teacher.inference.health import EngineHealth
from services.teacher.inference.results import (
    ChoiceStep,
    GenerationResult,
    RequestTimings,
    count_generated_tokens,
    select_most_likely,
)
from services.teacher.inference.stopping import GenerationStep, read_steps
from services.teacher.inference.validation import InferenceRequest, check_before_admission, validate
from services.teacher.metrics.requests import RequestMetrics
from services.teacher.settings import ServerSettings


class RequestLimiter:
    """Belongs to one event loop, so plain counting is safe."""

    def __init__(self, max_concurrent_requests: int) -> None:
        self.max_concurrent_requests = max_concurrent_requests
        self.in_use = 0

    @contextmanager
    def acquire(self, permits: int = 1) -> Iterator[None]:
        """Take `permits`, all or none, for the duration. Raises `Overloaded`."""
        if self.in_use + permits > self.max_concurrent_requests:
            raise Overloaded("Model is overloaded")
        self.in_use += permits
        try:
            yield
        finally:
            self.in_use -= permits


class InferenceService:
    """Runs the generation requests of a server.

    `ready` turns True when the engine is loaded; until then requests get a 503.
    """

    def __init__(self, engine: Engine, settings: ServerSettings) -> None:
        self.engine = engine
        self.settings = settings
        self.limiter = RequestLimiter(settings.max_concurrent_requests)
        self.metrics = RequestMetrics()
        self.ready = False
        self._running_requests = 0
        self._health = EngineHealth(engine, stall_seconds=settings.teacher_stall_seconds)

    @property
    def max_choices(self) -> int:
        """The most samples of one prompt in a request; each of them takes a permit."""
        return min(self.engine.info.max_choices, self.limiter.max_concurrent_requests)

    def mark_ready(self) -> None:
        info = self.engine.info
        self.metrics = RequestMetrics(
            max_input_tokens=info.max_input_tokens, max_total_tokens=info.max_total_tokens
        )
        self.ready = True

    def check_ready(self) -> None:
        if not self.ready:
            raise ModelLoading("Model is loading")

    async def check_health(self) -> bool:
        """Loaded, and getting on with its work, or able to when there is none."""
        return self.ready and await self._health.check()

    def render_metrics(self) -> bytes:
        """Prometheus text."""
        queued = self.limiter.in_use - self._running_requests
        return self.metrics.render(self.engine.batch_metrics, queue_size=queued)

    async def generate(self, request: InferenceRequest) -> GenerationResult:
        """The whole result. Raises `TeacherError`; cancelling this cancels the generation."""
        timings = RequestTimings()
        with self._track_request(timings):
            check_before_admission(request.parameters, self.settings, stream=False)
            best_of = max(request.parameters.best_of or 1, 1)
            if best_of == 1:
                result = await self._generate_one(request, timings)
            else:
                result = select_most_likely(await self._generate_best_of(request, best_of))
            self.metrics.record_success(
                **durations_since_arrival(result, timings), tokens=result.generated_tokens
            )
        return result

    async def generate_stream(
        self, request: InferenceRequest
    ) -> AsyncGenerator[tuple[ValidGenerateRequest, GenerationStep], None]:
        """The output token by token. Raises `TeacherError`; closing this cancels the generation."""
        timings = RequestTimings()
        with self._track_request(timings):
            check_before_admission(request.parameters, self.settings, stream=True)
            async with aclosing(self._run_request(request, timings)) as run:
                async for valid_request, step in run:
                    if step.finish_reason is not None:
                        self._record_finished(step, timings)
                    yield valid_request, step

    async def generate_choices(self, request: InferenceRequest, n: int) -> list[GenerationResult]:
        """`n` whole results, in the order of their indices."""
        tokens: list[list[Token]] = [[] for _ in range(n)]
        results: dict[int, GenerationResult] = {}
        async with aclosing(self.stream_choices(request, n)) as run:
            async for choice in run:
                index, step = choice.index, choice.step
                tokens[index].append(step.token)
                if step.finish_reason is not None:
                    results[index] = GenerationResult(
                        choice.request,
                        tokens[index],
                        step.text,
                        step.finish_reason,
                        choice.timings.durations(),
                        index=index,
                    )
        return [results[index] for index in range(n)]

    async def stream_choices(
        self, request: InferenceRequest, n: int
    ) -> AsyncGenerator[ChoiceStep, None]:
        """`n` samples of one prompt, token by token as they come, each a generation of its own.

        Choice i draws with the request's seed + i. Raises `TeacherError`, which ends all of them;
        closing this cancels them.
        """
        timings = [RequestTimings() for _ in range(n)]
        with ExitStack() as tracked:
            for each in timings:
                tracked.enter_context(self._track_request(each))
            check_before_admission(request.parameters, self.settings, stream=True)
            with self.limiter.acquire(n):
                requests = split_choices(await self._validate(request), n)
                streams = submit_choices(self.engine, requests)
                runs = [
                    self._run_admitted(*one) for one in zip(requests, streams, timings, strict=True)
                ]
                async with aclosing(merge_streams(runs)) as merged:
                    async for index, step in merged:
                        if step.finish_reason is not None:
                            self._record_finished(step, timings[index])
                        yield ChoiceStep(index, requests[index], step, timings[index])

    def _record_finished(self, step: GenerationStep, timings: RequestTimings) -> None:
        timings.finished = True
        tokens = count_generated_tokens(step.token, step.index)
        self.metrics.record_success(**timings.durations(), tokens=tokens)

    @contextmanager
    def _track_request(self, timings: RequestTimings) -> Iterator[None]:
        """Count one request, however it ends."""
        self.metrics.record_request()
        try:
            yield
        except TeacherError as error:
            if not timings.finished:
                self.metrics.record_failure(error.error_type)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            if not timings.finished:
                self.metrics.record_disconnect()
            raise

    async def _generate_best_of(
        self, request: InferenceRequest, best_of: int
    ) -> list[GenerationResult]:
        return await gather_results(
            self._generate_one(request, RequestTimings()) for _ in range(best_of)
        )

    async def _generate_one(
        self, request: InferenceRequest, timings: RequestTimings
    ) -> GenerationResult:
        tokens: list[Token] = []
        async with aclosing(self._run_request(request, timings)) as run:
            async for valid_request, step in run:
                tokens.append(step.token)
                if step.finish_reason is not None:
                    result = GenerationResult(
                        valid_request, tokens, step.text, step.finish_reason, timings.durations()
                    )
        if request.parameters.decoder_input_details:
            return replace(result, prefill=await self.engine.score_prompt(result.request))
        return result

    async def _run_request(
        self, request: InferenceRequest, timings: RequestTimings
    ) -> AsyncGenerator[tuple[ValidGenerateRequest, GenerationStep], None]:
        with self.limiter.acquire():
            valid_request = await self._validate(request)
            stream = self.engine.submit(valid_request)
            async with aclosing(self._run_admitted(valid_request, stream, timings)) as run:
                async for step in run:
                    yield valid_request, step

    async def _run_admitted(
        self,
        request: ValidGenerateRequest,
        stream: AsyncGenerator[Token, None],
        timings: RequestTimings,
    ) -> AsyncGenerator[GenerationStep, None]:
        """One generation that has its permit: the steps of the engine's `stream`, counted."""
        timings.validated_at = monotonic()
        ids = request.prompt_token_ids
        self.metrics.record_admission(
            input_length=None if ids is None else len(ids), max_new_tokens=request.max_new_tokens
        )
        try:
            with self._health.generation.track():
                async with aclosing(read_steps(stream, request)) as run:
                    step = await self._wait_for_first(run)
                    timings.first_token_at = monotonic()
                    self._running_requests += 1
                    self._health.mark_token()
                    yield step
                    async for step in run:
                        self._health.mark_token()
                        yield step
            self._health.mark_finished()
        except (GenerationFailed, IncompleteGeneration):
            self._health.mark_failure()
            raise
        finally:
            self._running_requests -= bool(timings.first_token_at)

    async def _wait_for_first(self, run: AsyncGenerator[GenerationStep, None]) -> GenerationStep:
        """The first step. Raises `Overloaded` when it takes too long to come."""
        timeout = None if self.settings.tgi_strict else self.settings.teacher_queue_seconds
        try:
            async with asyncio.timeout(timeout):
                return await anext(run)
        except TimeoutError as error:
            raise Overloaded(f"Model is overloaded: no token within {timeout:g} s") from error

    async def _validate(self, request: InferenceRequest) -> ValidGenerateRequest:
        with self._health.validation.track():
            try:
                valid_request = await validate(request, self.engine, self.settings)
            except GenerationFailed:
                self._health.mark_failure()
                raise
            self._health.validation.mark_progress()
        return valid_request


def durations_since_arrival(result: GenerationResult, timings: RequestTimings) -> dict[str, float]:
    """Durations of the generation in seconds, the total since its request arrived."""
    return {**result.durations, "total": monotonic() - timings.arrived_at}


def split_choices(request: ValidGenerateRequest, n: int) -> list[ValidGenerateRequest]:
    """`request` once for each of its `n` choices, with the seeds that follow each other."""
    seed = request.sampling.seed
    if seed is None:
        return [request] * n
    seeds = [(seed + index) % 2**64 for index in range(n)]
    return [replace(request, sampling=replace(request.sampling, seed=each)) for each in seeds]


def submit_choices(
    engine: Engine, requests: Sequence[ValidGenerateRequest]
) -> Sequence[AsyncGenerator[Token, None]]:
    """A stream for each of `requests`, in as few requests as the engine makes of them."""
    if len(requests) > 1 and isinstance(engine, ChoiceEngine):
        return engine.submit_choices(requests)
    return [engine.submit(request) for request in requests]
