"""From a parsed request to its answer: permit, validation, generation, metrics, in that order."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from services.teacher import sse, wire
from services.teacher.engines.base import Engine, Generation, Token
from services.teacher.errors import Incomplete, Loading, TeacherError
from services.teacher.generation import Reason, Step, steps
from services.teacher.metrics import Metrics
from services.teacher.permits import Permits
from services.teacher.validation import Limits, check_before_permit, validate
from services.teacher.wire import GenerateRequest


@dataclass
class Clock:
    """Moments of one request, in seconds of the monotonic clock."""

    arrived: float = field(default_factory=monotonic)
    validated: float = 0.0
    first_token: float = 0.0

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
    """A finished generation with what the response body and headers need."""

    body: dict[str, Any]
    request: Generation
    tokens: int
    seconds: dict[str, float]


class Sessions:
    """Every generating request of a server passes here.

    `ready` turns True when the engine is loaded; until then requests are told to come back.
    """

    def __init__(self, engine: Engine, *, permits: Permits, limits: Limits) -> None:
        self.engine = engine
        self.permits = permits
        self.limits = limits
        self.metrics = Metrics()
        self.ready = False
        self._running = 0

    def loaded(self) -> None:
        info = self.engine.info
        self.metrics = Metrics(
            max_input_tokens=info.max_input_tokens, max_total_tokens=info.max_total_tokens
        )
        self.ready = True

    def check_ready(self) -> None:
        if not self.ready:
            raise Loading("Model is loading")

    def exposition(self) -> bytes:
        """Prometheus text."""
        queued = self.permits.taken - self._running
        return self.metrics.render(queued=queued, running=self._running)

    async def answer(self, request: GenerateRequest) -> Answer:
        """The whole answer. Raises `TeacherError`; cancelling this cancels the generation."""
        clock, tokens, last = Clock(), [], None
        async with aclosing(self._steps(request, clock, stream=False)) as run:
            async for generation, step in run:
                tokens.append(step.token)
                last = (generation, step)
        if last is None:
            raise Incomplete
        generation, step = last
        assert step.reason is not None
        body = _body(request, generation, tokens, step.text, step.reason)
        return Answer(body, generation, len(tokens), clock.seconds())

    async def events(self, request: GenerateRequest) -> AsyncGenerator[bytes, None]:
        """The native stream. Errors become its last event, as in TGI the status is 200 by then."""
        try:
            async with aclosing(self._steps(request, Clock(), stream=True)) as run:
                async for generation, step in run:
                    yield sse.event(_event(request, generation, step))
        except Incomplete as error:
            body = {"error": f"{error.message} stream", "error_type": f"{error.error_type}_stream"}
            yield sse.event(body)
        except TeacherError as error:
            yield sse.event(error.body())

    async def _steps(
        self, request: GenerateRequest, clock: Clock, *, stream: bool
    ) -> AsyncGenerator[tuple[Generation, Step], None]:
        self.metrics.arrived()
        finished = False
        try:
            check_before_permit(request.parameters, stream=stream)
            with self.permits.take():
                generation = await validate(request, self.engine, self.limits)
                clock.validated = monotonic()
                async with aclosing(self._run(generation, clock)) as run:
                    async for step in run:
                        finished = step.reason is not None
                        yield generation, step
        except TeacherError as error:
            finished = True
            self.metrics.failed(error.error_type)
            raise
        finally:
            if not finished:
                self.metrics.dropped()

    async def _run(self, generation: Generation, clock: Clock) -> AsyncGenerator[Step, None]:
        ids = generation.prompt_ids
        self.metrics.admitted(
            input_length=None if ids is None else len(ids),
            max_new_tokens=generation.max_new_tokens,
        )
        try:
            async with aclosing(steps(self.engine, generation)) as run:
                async for step in run:
                    if not clock.first_token:
                        clock.first_token = monotonic()
                        self._running += 1
                    if step.reason is not None:
                        self.metrics.succeeded(**clock.seconds(), tokens=step.index)
                    yield step
        finally:
            self._running -= bool(clock.first_token)


def _shown(request: GenerateRequest, generation: Generation, text: str) -> str:
    return generation.prompt + text if request.parameters.return_full_text else text


def _body(
    request: GenerateRequest,
    generation: Generation,
    tokens: list[Token],
    text: str,
    reason: Reason,
) -> dict[str, Any]:
    body: dict[str, Any] = {"generated_text": _shown(request, generation, text)}
    if request.parameters.details or request.parameters.decoder_input_details:
        body["details"] = wire.details(
            reason, tokens, seed=generation.sampling.seed, top_n_tokens=generation.top_n_tokens
        )
    return body


def _event(request: GenerateRequest, generation: Generation, step: Step) -> dict[str, Any]:
    text = details = None
    if step.reason is not None:
        text = _shown(request, generation, step.text)
        if request.parameters.details:
            ids = generation.prompt_ids
            details = {
                "finish_reason": step.reason,
                "generated_tokens": step.index,
                "seed": generation.sampling.seed,
                "input_length": None if ids is None else len(ids),
            }
    return wire.stream_event(
        step.index,
        step.token,
        top_n_tokens=generation.top_n_tokens,
        generated_text=text,
        stream_details=details,
    )
