"""The local engine's one thread: which requests run, and their tokens to the event loop.

Requests are taken first come, first served, as many as slots and the token budget hold. Tokens
cross to the event loop once per step.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from services.teacher.engines.base import Token, ValidGenerateRequest
from services.teacher.engines.transformers.continuous_batching import Continuous, suits
from services.teacher.engines.transformers.grammar_mask import Constraint, vocabulary
from services.teacher.engines.transformers.sequence import Row, new_row, score
from services.teacher.engines.transformers.static_batching import Cohorts
from services.teacher.engines.transformers.weights import Model
from services.teacher.errors import GenerationFailed
from services.teacher.metrics.batches import Batches

# Requests of one burst reach the worker within this many seconds of each other, and can then begin
# as one batch.
GATHER_SECONDS = 0.01
Item = Token | Exception | None


@dataclass(eq=False)
class Stream:
    """One submitted request: what the worker writes to and what tells it to stop."""

    request: ValidGenerateRequest
    loop: asyncio.AbstractEventLoop
    inbox: asyncio.Queue[Item] = field(default_factory=asyncio.Queue)
    closed: threading.Event = field(default_factory=threading.Event)
    sent: int = 0

    def wants_more(self, token: Token) -> bool:
        self.sent += 1
        return not token.finish_reason and self.sent < self.request.max_new_tokens

    @property
    def room(self) -> int:
        """Tokens this request may reach."""
        return len(self.request.prompt_token_ids or ()) + self.request.max_new_tokens


@dataclass(eq=False)
class Scoring:
    """A prompt whose tokens' log-probabilities are wanted, between two steps of the others."""

    request: ValidGenerateRequest
    result: Future[list[Token]] = field(default_factory=Future)


@dataclass(frozen=True)
class Room:
    """What runs at once. `slots`: requests; `columns`: tokens of one of them; `budget`: tokens all
    of them may reach together; `prefill`: prompt tokens read between two steps of those that run.
    """

    slots: int
    columns: int
    budget: int
    prefill: int


class Worker:
    """`batches` hears what it does. Closed by None in its queue."""

    def __init__(self, model: Model, room: Room, batches: Batches) -> None:
        self._model, self._room, self._batches = model, room, batches
        self.vocabulary: Any = vocabulary(model)
        self.running = self._fitting()
        self.arriving: queue.SimpleQueue[Stream | Scoring | None] = queue.SimpleQueue()
        self.largest_batch = 0
        self._waiting: deque[Stream] = deque()
        self._closing = False
        self.thread = threading.Thread(target=self._work, name="local", daemon=True)

    def _fitting(self) -> Continuous | Cohorts:
        """Continuous batching, where it gives this model's own logits."""
        model, room = self._model, self._room
        if model.seq2seq:
            return Cohorts(model)
        made = Continuous(model, slots=room.slots, columns=room.columns, batches=self._batches)
        probe = new_row(model, ValidGenerateRequest("", tuple(range(min(8, room.columns - 1))), 1))
        if not suits(model, probe, made):
            return Cohorts(model)
        made.prefilled_tokens = 0
        return made

    def _work(self) -> None:
        """The thread's whole life, until it is closed."""
        while self._arrived(wait=True):
            # The process boundary of the engine: whatever breaks a batch fails its requests only.
            live: list[Stream] = []
            try:
                self._flow(live)
            except Exception as error:
                deliver([(stream, error) for stream in live])
                self.running.reset()
            self._batches.now(rows=0, tokens=0)
        deliver([(stream, None) for stream in self._waiting])

    def _arrived(self, *, wait: bool, seconds: float | None = None) -> bool:
        """Take what has been submitted, waiting for the first of it (at most `seconds`); False
        once the engine is being closed.
        """
        while not self._closing:
            try:
                item = self.arriving.get(wait and not self._waiting, seconds)
            except queue.Empty:
                return True
            if isinstance(item, Scoring):
                self._score(item)
            elif item is None:
                self._closing = True
            else:
                self._waiting.append(item)
        return False

    def _score(self, scoring: Scoring) -> None:
        try:
            scoring.result.set_result(score(self._model, scoring.request))
        except RuntimeError as error:
            scoring.result.set_exception(GenerationFailed(str(error)))

    def _row(self, stream: Stream) -> Row:
        grammar = stream.request.grammar
        constraint = None if grammar is None else Constraint(self.vocabulary, grammar)
        return new_row(self._model, stream.request, constraint)

    def _flow(self, live: list[Stream]) -> None:
        """Steps until nothing runs and nothing waits. `live` are the streams of the rows."""
        if isinstance(self.running, Cohorts):
            time.sleep(GATHER_SECONDS)
        while self._arrived(wait=False) or live:
            self._admit(live)
            if not live:
                return
            self._report(live)
            advance(self.running, live)

    def _admit(self, live: list[Stream]) -> None:
        """First come, first served, while there is a slot and the tokens fit."""
        batch, running = self.running, len(live)
        before = batch.prefilled_tokens
        if not batch.open:
            return
        while (stream := self._next(live)) and batch.prefilled_tokens - before < self._room.prefill:
            live.append(self._waiting.popleft())
            batch.add(self._row(stream))
        self.largest_batch = max(self.largest_batch, len(live))
        joined = len(live) - running
        if joined and running:
            self._batches.joined(joined, "backpressure")
        elif joined:
            self._batches.began(joined)

    def _next(self, live: list[Stream]) -> Stream | None:
        """The request at the head of the queue, if it fits; those whose clients left are gone."""
        while self._waiting and self._waiting[0].closed.is_set():
            self._waiting.popleft()
        if not self._waiting or len(live) >= self._room.slots or self._closing:
            return None
        reached = sum(stream.room for stream in live) + self._waiting[0].room
        fits = not live or reached <= self._room.budget
        return self._waiting[0] if fits else None

    def _report(self, live: Sequence[Stream]) -> None:
        self._batches.now(rows=len(live), tokens=sum(stream.room for stream in live))


def advance(batch: Continuous | Cohorts, live: list[Stream]) -> None:
    """One token to each stream; those that want no more leave `live` and the batch."""
    items: list[tuple[Stream, Item]] = []
    ended = []
    for place, (stream, token) in enumerate(zip(live, batch.step(), strict=True)):
        items.append((stream, token))
        more = stream.wants_more(token)
        if not more:
            items.append((stream, None))
        if not more or stream.closed.is_set():
            ended.append(place)
    deliver(items)
    live[:] = [live[place] for place in batch.leave(ended)]


def deliver(items: Sequence[tuple[Stream, Item]]) -> None:
    """From the worker thread, in one call per event loop; one that is gone takes nothing."""

    def put(mine: Sequence[tuple[Stream, Item]]) -> None:
        for stream, item in mine:
            stream.inbox.put_nowait(item)

    for loop in {stream.loop for stream, _ in items}:
        if not loop.is_closed():
            loop.call_soon_threadsafe(put, [pair for pair in items if pair[0].loop is loop])
