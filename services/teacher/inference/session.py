"""Runs a request: permit, validation, generation, metrics, in that order."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from time import monotonic

from services.teacher.engines.base import Engine, Token, ValidGenerateRequest
from services.teacher.errors import (
    GenerationFailed,
    IncompleteGeneration,
    ModelLoading,
    Overloaded,
    TeacherError,
)
from services.teacher.inference.gathering import gather_results
from services.teacher.inference.health import EngineHealth
from services.teacher.inference.stopping import FinishReason, GenerationStep, stream_steps
from services.teacher.inference.validation import InferenceRequest, check_before_admission, validate
from services.teacher.metrics.requests import RequestMetrics
from services.teacher.settings import ServerSettings


class RequestLimiter:
    """Belongs to one event loop, so plain counting is safe."""

    def __init__(self, max_concurrent_requests: int) -> None:
        self.max_concurrent_requests = max_concurrent_requests
        self.in_use = 0

    @contextmanager
    def acquire(self) -> Iterator[None]:
        """Take one permit for the duration. Raises `Overloaded`."""
        if self.in_use >= self.max_concurrent_requests:
            raise Overloaded("Model is overloaded")
        self.in_use += 1
        try:
            yield
        finally:
            self.in_use -= 1


@dataclass
class RequestTimings:
    """Moments of one request, in seconds of the monotonic clock."""

    arrived_at: float = field(default_factory=monotonic)
    validated_at: float = 0.0
    first_token_at: float = 0.0
    finished: bool = False

    def durations(self) -> dict[str, float]:
        now = monotonic()
        first = self.first_token_at or now
        return {
            "total": now - self.arrived_at,
            "validation": self.validated_at - self.arrived_at,
            "queue": first - self.validated_at,
            "inference": now - self.validated_at,
        }


@dataclass(frozen=True)
class GenerationResult:
    """A finished generation. `others` are the less likely ones of `best_of`."""

    request: ValidGenerateRequest
    tokens: Sequence[Token]
    text: str
    finish_reason: FinishReason
    durations: dict[str, float]
    prefill: Sequence[Token] = ()
    best_of_sequences: tuple[GenerationResult, ...] = ()

    @property
    def generated_tokens(self) -> int:
        return count_generated_tokens(self.tokens[-1], len(self.tokens))

    @property
    def input_length(self) -> int | None:
        """Prompt tokens, None when neither this server nor its upstream has counted them."""
        return get_input_length(self.request, self.tokens[-1])

    @property
    def counts_estimated(self) -> bool:
        return self.tokens[-1].counts_estimated

    @property
    def mean_logprob(self) -> float:
        """Mean log-probability of the tokens whose log-probability is known."""
        known = [token.logprob for token in self.tokens if token.logprob is not None]
        return sum(known) / len(known) if known else -math.inf


def count_generated_tokens(last: Token, step_count: int) -> int:
    """Tokens generated: an upstream's own count where it reports one."""
    return step_count if last.generated_tokens is None else last.generated_tokens


def get_input_length(request: ValidGenerateRequest, last: Token) -> int | None:
    """Prompt tokens: an upstream's own count where it tells one, which is what it wants paid."""
    if last.prompt_tokens is None and request.prompt_token_ids is not None:
        return len(request.prompt_token_ids)
    return last.prompt_tokens


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
                        timings.finished, tokens = (
                            True,
                            count_generated_tokens(step.token, step.index),
                        )
                        self.metrics.record_success(**timings.durations(), tokens=tokens)
                    yield valid_request, step

    @contextmanager
    def _track_request(self, timings: RequestTimings) -> Iterator[None]:
        """Count one request, however it ends."""
        self.metrics.record_request()
        try:
            yield
        except TeacherError as error:
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
            timings.validated_at = monotonic()
            ids = valid_request.prompt_token_ids
            self.metrics.record_admission(
                input_length=None if ids is None else len(ids),
                max_new_tokens=valid_request.max_new_tokens,
            )
            try:
                async with aclosing(self._stream_with_queue_timeout(valid_request)) as run:
                    async for step in run:
                        if not timings.first_token_at:
                            timings.first_token_at = monotonic()
                            self._running_requests += 1
                        self._health.mark_token()
                        yield valid_request, step
                self._health.mark_finished()
            except (GenerationFailed, IncompleteGeneration):
                self._health.mark_failure()
                raise
            finally:
                self._running_requests -= bool(timings.first_token_at)

    async def _validate(self, request: InferenceRequest) -> ValidGenerateRequest:
        with self._health.validation.track():
            try:
                valid_request = await validate(request, self.engine, self.settings)
            except GenerationFailed:
                self._health.mark_failure()
                raise
            self._health.validation.mark_progress()
        return valid_request

    async def _stream_with_queue_timeout(
        self, request: ValidGenerateRequest
    ) -> AsyncGenerator[GenerationStep, None]:
        """The engine's steps. Raises `Overloaded` when the first one takes too long to come."""
        with self._health.generation.track():
            async with aclosing(stream_steps(self.engine, request)) as run:
                timeout = None if self.settings.tgi_strict else self.settings.teacher_queue_seconds
                try:
                    async with asyncio.timeout(timeout):
                        first = await anext(run)
                except TimeoutError as error:
                    raise Overloaded(
                        f"Model is overloaded: no token within {timeout:g} s"
                    ) from error
                yield first
                async for step in run:
                    yield step


def select_most_likely(results: Sequence[GenerationResult]) -> GenerationResult:
    """The most likely generation, with the others as its `best_of_sequences`."""
    first, *others = sorted(results, key=lambda result: result.mean_logprob, reverse=True)
    return replace(first, best_of_sequences=tuple(others))


def durations_since_arrival(result: GenerationResult, timings: RequestTimings) -> dict[str, float]:
    """Durations of the generation in seconds, the total since its request arrived."""
    return {**result.durations, "total": monotonic() - timings.arrived_at}
