"""Whether the engine gets on: known from the requests that run, asked when there are none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from time import monotonic

from services.teacher.engines.base import (
    Engine,
    PrefillCounter,
    RemoteEngine,
    SamplingParams,
    ValidGenerateRequest,
)
from services.teacher.errors import TeacherError
from services.teacher.inference.stopping import stream_steps

PROBE_PROMPT = "liveness"
"""The prompt of a health check's one-token generation; TGI's own word."""
IDLE_PROBE_SECONDS = 60.0
"""Least time between two probes of an engine that has nothing to do, or that answered none."""
PROBE_TIMEOUT_SECONDS = 10.0
Clock = Callable[[], float]


class StallClock:
    """For how long work has been there without any of it getting on."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since = clock()
        self.open = 0

    @contextmanager
    def track(self) -> Iterator[None]:
        """One piece of work, from its start to its end, however that comes."""
        if not self.open:
            self._since = self._clock()
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1

    def mark_progress(self) -> None:
        self._since = self._clock()

    @property
    def stalled_seconds(self) -> float:
        return self._clock() - self._since if self.open else 0.0


class EngineHealth:
    """`generation` hears of every token, `validation` of every prompt that was tokenized: a
    tokenizer without a free connection holds requests up before the engine sees them.
    """

    def __init__(self, engine: Engine, *, stall_seconds: float, clock: Clock = monotonic) -> None:
        self._engine = engine
        self._stall_seconds = stall_seconds
        self._clock = clock
        self.generation, self.validation = StallClock(clock), StallClock(clock)
        self._proven_at = clock()
        self._is_ok = True
        self._timed_out_at: float | None = None
        self._prefilled_tokens = 0
        self._probe_lock = asyncio.Lock()

    def mark_token(self) -> None:
        self._proven_at = self._clock()
        self._timed_out_at = None
        self.generation.mark_progress()

    def mark_finished(self) -> None:
        """A whole answer, which makes up for one that failed."""
        self._is_ok = True

    def mark_failure(self) -> None:
        """A probe has to succeed before the engine is healthy again, or a whole answer to come."""
        self._is_ok = False

    async def check(self) -> bool:
        """Cheap while there is work; when idle one token, at most every minute."""
        self._note_prefill()
        if self._is_stalled():
            return False
        if not self._needs_probe():
            return self._is_ok
        if self._probe_lock.locked():
            return self._is_ok
        async with self._probe_lock:
            self._is_ok = await self._probe()
            self._proven_at = self._clock()
        return self._is_ok

    def _note_prefill(self) -> None:
        """Reading prompts gives no token, and is work all the same."""
        if not isinstance(self._engine, PrefillCounter):
            return
        if self._engine.prefilled_tokens != self._prefilled_tokens:
            self._prefilled_tokens = self._engine.prefilled_tokens
            self.generation.mark_progress()

    def _is_stalled(self) -> bool:
        stalled = max(self.generation.stalled_seconds, self.validation.stalled_seconds)
        return stalled > self._stall_seconds

    def _needs_probe(self) -> bool:
        now = self._clock()
        if self._timed_out_at is not None:
            return now - self._timed_out_at >= IDLE_PROBE_SECONDS
        is_idle = not self.generation.open and not self.validation.open
        return not self._is_ok or (is_idle and now - self._proven_at >= IDLE_PROBE_SECONDS)

    async def _probe(self) -> bool:
        """One token; of a far end, which may want money for it, any answer at all."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                if isinstance(self._engine, RemoteEngine):
                    return await self._engine.check_reachable()
                await self._generate_token()
        except TeacherError:
            return False
        except TimeoutError:
            self._timed_out_at = self._clock()
            return False
        self._timed_out_at = None
        return True

    async def _generate_token(self) -> None:
        tokens = await self._engine.tokenize(PROBE_PROMPT)
        ids = None if tokens is None else tuple(piece.id for piece in tokens)
        request = ValidGenerateRequest(PROBE_PROMPT, ids, 1, SamplingParams())
        async with aclosing(stream_steps(self._engine, request)) as run:
            async for _ in run:
                pass
