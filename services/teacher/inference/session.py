"""From a request to its answer: permit, validation, generation, metrics, in that order."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from time import monotonic

from services.teacher.engines.base import Engine, SamplingParams, Token, ValidGenerateRequest
from services.teacher.errors import (
    GenerationFailed,
    IncompleteGeneration,
    ModelLoading,
    Overloaded,
    TeacherError,
)
from services.teacher.inference.stopping import Reason, Step, steps
from services.teacher.inference.validation import Ask, check_before_permit, validate
from services.teacher.metrics.requests import Metrics
from services.teacher.settings import ServerSettings


class Permits:
    """Belongs to one event loop, so plain counting is safe."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.taken = 0

    @contextmanager
    def take(self) -> Iterator[None]:
        """Hold one permit. Raises `Overloaded`."""
        if self.taken >= self.count:
            raise Overloaded("Model is overloaded")
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


PROBE = "liveness"
"""The prompt of a health check's one-token generation; TGI's own word."""


@dataclass
class Clock:
    """Moments of one request, in seconds of the monotonic clock."""

    arrived: float = field(default_factory=monotonic)
    validated: float = 0.0
    first_token: float = 0.0
    finished: bool = False

    def seconds(self) -> dict[str, float]:
        now = monotonic()
        first = self.first_token or now
        return {
            "total": now - self.arrived,
            "validation": self.validated - self.arrived,
            "queue": first - self.validated,
            "inference": now - self.validated,
        }


@dataclass(frozen=True)
class Answer:
    """A finished generation. `others` are the less likely ones of `best_of`."""

    request: ValidGenerateRequest
    tokens: Sequence[Token]
    text: str
    reason: Reason
    seconds: dict[str, float]
    prefill: Sequence[Token] = ()
    others: tuple[Answer, ...] = ()

    @property
    def generated(self) -> int:
        return count(self.tokens[-1], len(self.tokens))

    @property
    def input_length(self) -> int | None:
        """Prompt tokens, None when neither this server nor its upstream has counted them."""
        return input_length(self.request, self.tokens[-1])

    @property
    def likelihood(self) -> float:
        """Mean log-probability of the tokens whose log-probability is known."""
        known = [token.logprob for token in self.tokens if token.logprob is not None]
        return sum(known) / len(known) if known else -math.inf


def count(last: Token, seen: int) -> int:
    """Tokens generated: an upstream's own count where it tells one."""
    return seen if last.generated_tokens is None else last.generated_tokens


def input_length(request: ValidGenerateRequest, last: Token) -> int | None:
    if request.prompt_token_ids is not None:
        return len(request.prompt_token_ids)
    return last.prompt_tokens


class Sessions:
    """Every generating request of a server passes here.

    `ready` turns True when the engine is loaded; until then requests are told to come back.
    """

    def __init__(self, engine: Engine, settings: ServerSettings) -> None:
        self.engine = engine
        self.settings = settings
        self.permits = Permits(settings.max_concurrent_requests)
        self.metrics = Metrics()
        self.ready = False
        self._running = 0
        self._healthy = True
        self._probing = asyncio.Lock()

    def loaded(self) -> None:
        info = self.engine.info
        self.metrics = Metrics(
            max_input_tokens=info.max_input_tokens, max_total_tokens=info.max_total_tokens
        )
        self.ready = True

    def check_ready(self) -> None:
        if not self.ready:
            raise ModelLoading("Model is loading")

    async def healthy(self) -> bool:
        """Loaded, and able to generate: after a failed generation a probe has to succeed first."""
        if not self.ready:
            return False
        async with self._probing:
            if not self._healthy:
                self._healthy = await self._probe()
        return self._healthy

    async def _probe(self) -> bool:
        try:
            pieces = await self.engine.tokenize(PROBE)
            ids = None if pieces is None else tuple(piece.id for piece in pieces)
            async with aclosing(
                steps(self.engine, ValidGenerateRequest(PROBE, ids, 1, SamplingParams()))
            ) as run:
                async for _ in run:
                    pass
        except TeacherError:
            return False
        return True

    def exposition(self) -> bytes:
        """Prometheus text."""
        queued = self.permits.taken - self._running
        return self.metrics.render(self.engine.batch_metrics, queued=queued)

    async def answer(self, ask: Ask) -> Answer:
        """The whole answer. Raises `TeacherError`; cancelling this cancels the generation."""
        clock = Clock()
        with self._counted(clock):
            check_before_permit(ask.parameters, self.settings, stream=False)
            copies = max(ask.parameters.best_of or 1, 1)
            if copies == 1:
                answer = await self._whole(ask, clock)
            else:
                answer = best(await self._several(ask, copies))
            self.metrics.succeeded(**clock_of(answer, clock), tokens=answer.generated)
        return answer

    async def stream(self, ask: Ask) -> AsyncGenerator[tuple[ValidGenerateRequest, Step], None]:
        """The answer token by token. Raises `TeacherError`; closing this cancels the generation."""
        clock = Clock()
        with self._counted(clock):
            check_before_permit(ask.parameters, self.settings, stream=True)
            async with aclosing(self._steps(ask, clock)) as run:
                async for generation, step in run:
                    if step.reason is not None:
                        clock.finished, tokens = True, count(step.token, step.index)
                        self.metrics.succeeded(**clock.seconds(), tokens=tokens)
                    yield generation, step

    @contextmanager
    def _counted(self, clock: Clock) -> Iterator[None]:
        """One request in the counters, however it ends."""
        self.metrics.arrived()
        try:
            yield
        except TeacherError as error:
            self.metrics.failed(error.error_type)
            raise
        except (asyncio.CancelledError, GeneratorExit):
            if not clock.finished:
                self.metrics.dropped()
            raise

    async def _several(self, ask: Ask, copies: int) -> list[Answer]:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._whole(ask, Clock())) for _ in range(copies)]
        except* TeacherError as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _whole(self, ask: Ask, clock: Clock) -> Answer:
        tokens: list[Token] = []
        async with aclosing(self._steps(ask, clock)) as run:
            async for generation, step in run:
                tokens.append(step.token)
                if step.reason is not None:
                    answer = Answer(generation, tokens, step.text, step.reason, clock.seconds())
        if ask.parameters.decoder_input_details:
            return replace(answer, prefill=await self.engine.score_prompt(answer.request))
        return answer

    async def _steps(
        self, ask: Ask, clock: Clock
    ) -> AsyncGenerator[tuple[ValidGenerateRequest, Step], None]:
        with self.permits.take():
            generation = await validate(ask, self.engine, self.settings)
            clock.validated = monotonic()
            ids = generation.prompt_token_ids
            self.metrics.admitted(
                input_length=None if ids is None else len(ids),
                max_new_tokens=generation.max_new_tokens,
            )
            try:
                async with aclosing(self._bounded(generation)) as run:
                    async for step in run:
                        if not clock.first_token:
                            clock.first_token = monotonic()
                            self._running += 1
                        yield generation, step
            except (GenerationFailed, IncompleteGeneration):
                self._healthy = False
                raise
            finally:
                self._running -= bool(clock.first_token)

    async def _bounded(self, generation: ValidGenerateRequest) -> AsyncGenerator[Step, None]:
        """The engine's steps. Raises `Overloaded` when the first one takes too long to come."""
        async with aclosing(steps(self.engine, generation)) as run:
            patience = None if self.settings.tgi_strict else self.settings.teacher_queue_seconds
            try:
                async with asyncio.timeout(patience):
                    first = await anext(run)
            except TimeoutError as error:
                raise Overloaded(f"Model is overloaded: no token within {patience:g} s") from error
            yield first
            async for step in run:
                yield step


def best(answers: Sequence[Answer]) -> Answer:
    """The most likely answer, with the others behind it."""
    first, *others = sorted(answers, key=lambda answer: answer.likelihood, reverse=True)
    return replace(first, others=tuple(others))


def clock_of(answer: Answer, clock: Clock) -> dict[str, float]:
    """Seconds of the answer, counted from the moment its request arrived."""
    return {**answer.seconds, "total": monotonic() - clock.arrived}
