"""transformers models from a folder or a .gguf file, on one worker thread.

Decoder-only models are batched continuously: requests join and leave between two tokens, first
come, first served, as many as `slots` and the token budget hold. Encoder-decoders, and models
whose cache is of another kind, take all requests that wait as one batch until each has ended.
Tokens cross to the event loop once per step.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.teacher.batches import Batches
from services.teacher.engines.base import (
    Conversation,
    EngineInfo,
    Generation,
    Grammar,
    Piece,
    Token,
)
from services.teacher.errors import GenerationFailed, TemplateFailed

if TYPE_CHECKING:
    from services.teacher.engines.continuous import Continuous
    from services.teacher.engines.decoding import Batch
    from services.teacher.engines.rows import Row
    from services.teacher.engines.weights import Model, Precision

# Requests of one burst reach the worker within this many seconds of each other.
GATHER_SECONDS = 0.01
# A sequence without a stated limit; the longest context that still fits most small machines.
DEFAULT_CONTEXT = 2048
Item = Token | Exception | None


@dataclass(eq=False)
class Stream:
    """One submitted request: what the worker writes to and what tells it to stop."""

    request: Generation
    loop: asyncio.AbstractEventLoop
    inbox: asyncio.Queue[Item] = field(default_factory=asyncio.Queue)
    closed: threading.Event = field(default_factory=threading.Event)
    sent: int = 0

    def wants_more(self, token: Token) -> bool:
        self.sent += 1
        return not token.ends and self.sent < self.request.max_new_tokens

    @property
    def room(self) -> int:
        """Tokens this request may reach."""
        return len(self.request.prompt_ids or ()) + self.request.max_new_tokens


@dataclass(eq=False)
class Scoring:
    """A prompt whose tokens' log-probabilities are wanted, between two steps of the others."""

    request: Generation
    result: Future[list[Token]] = field(default_factory=Future)


class LocalEngine:
    """`budget`: tokens of prompt and answer that all running requests may reach together.
    `prefill`: prompt tokens read between two steps of the running requests.
    """

    def __init__(
        self,
        path: Path,
        model_id: str,
        *,
        threads: int,
        slots: int,
        max_total_tokens: int | None,
        max_input_tokens: int | None,
        precision: Precision = "auto",
        adapters: Mapping[str, str] | None = None,
        budget: int | None = None,
        prefill: int = 2048,
    ) -> None:
        self._path, self._model_id = path, model_id
        self._threads, self._slots = threads, slots
        self._precision, self._adapters = precision, dict(adapters or {})
        self._budget, self._prefill = budget, prefill
        self._limits = (max_input_tokens, max_total_tokens)
        self._arriving: queue.SimpleQueue[Stream | Scoring | None] = queue.SimpleQueue()
        self._waiting: deque[Stream] = deque()
        self._closing = False
        self._worker = threading.Thread(target=self._work, name="local", daemon=True)
        self._model: Model | None = None
        self._continuous: Continuous | None = None
        self._vocabulary: Any = None
        self._info: EngineInfo | None = None
        self.batches = Batches()
        self.largest_batch = 0

    @property
    def info(self) -> EngineInfo:
        assert self._info is not None
        return self._info

    @property
    def prefilled_tokens(self) -> int:
        """Prompt tokens that went through the model; those copied from other rows did not."""
        return 0 if self._continuous is None else self._continuous.prefilled_tokens

    async def start(self) -> None:
        await asyncio.to_thread(self._load)
        self._worker.start()

    async def tokenize(self, text: str, *, special: bool = True) -> Sequence[Piece]:
        return await asyncio.to_thread(self._pieces, text, special)

    async def template(self, conversation: Conversation) -> str:
        return await asyncio.to_thread(self._template, conversation)

    async def prefill(self, request: Generation) -> Sequence[Token]:
        if self._model is None or self._model.seq2seq:
            return ()
        scoring = Scoring(request)
        self._arriving.put(scoring)
        return await asyncio.wrap_future(scoring.result)

    async def check_grammar(self, grammar: Grammar) -> None:
        from services.teacher.engines import grammars

        await asyncio.to_thread(grammars.check, grammar)

    async def submit(self, request: Generation) -> AsyncGenerator[Token, None]:
        stream = Stream(request, asyncio.get_running_loop())
        self._arriving.put(stream)
        try:
            while (item := await stream.inbox.get()) is not None:
                if isinstance(item, Exception):
                    raise GenerationFailed(str(item)) from item
                yield item
        finally:
            stream.closed.set()

    async def close(self) -> None:
        if self._worker.is_alive():
            self._arriving.put(None)
            await asyncio.to_thread(self._worker.join)

    def _load(self) -> None:
        import torch

        from services.teacher.engines import weights
        from services.teacher.engines.constraints import vocabulary

        torch.set_num_threads(self._threads)
        model = weights.load(self._path, precision=self._precision, adapters=self._adapters)
        asked_input, asked_total = self._limits
        total = asked_total or min(model.positions, DEFAULT_CONTEXT)
        self._model = model
        self._continuous = None if model.seq2seq else self._fitting(model, total)
        self._vocabulary = vocabulary(model)
        self._budget = self._budget or self._slots * total
        self.batches.holds(self._budget)
        self._info = EngineInfo(
            self._model_id,
            "local",
            asked_input or total - 1,
            total,
            grammar=self._vocabulary is not None,
            adapters=model.adapters,
        )

    def _fitting(self, model: Model, total: int) -> Continuous | None:
        """Continuous batching, where it gives this model's own logits."""
        from services.teacher.engines.continuous import Continuous, suits
        from services.teacher.engines.rows import new_row

        made = Continuous(model, slots=self._slots, columns=total, batches=self.batches)
        ids = tuple(range(min(8, total - 1)))
        fits = suits(model, new_row(model, Generation("", ids, 1)), made)
        made.prefilled_tokens = 0
        return made if fits else None

    def _pieces(self, text: str, special: bool) -> list[Piece]:
        assert self._model is not None
        tokenizer = self._model.tokenizer
        if not tokenizer.is_fast:
            ids = tokenizer(text, add_special_tokens=special)["input_ids"]
            return [Piece(i, "", 0, 0) for i in ids]
        out = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
        spans = [
            (len(text[:start].encode()), len(text[:stop].encode()), text[start:stop])
            for start, stop in out["offset_mapping"]
        ]
        return [
            Piece(i, shown, start, stop)
            for i, (start, stop, shown) in zip(out["input_ids"], spans, strict=True)
        ]

    def _template(self, conversation: Conversation) -> str:
        from jinja2 import TemplateError

        assert self._model is not None
        tokenizer = self._model.tokenizer
        if not tokenizer.chat_template:
            raise TemplateFailed("the model has no chat template")
        try:
            text = tokenizer.apply_chat_template(
                [dict(message) for message in conversation.messages],
                tools=[dict(tool) for tool in conversation.tools] or None,
                add_generation_prompt=True,
                tokenize=False,
            )
        except (TemplateError, ValueError, TypeError, KeyError) as error:
            raise TemplateFailed(str(error)) from error
        return str(text)

    def _work(self) -> None:
        """The thread's whole life, until it is closed."""
        while self._arrived(wait=True):
            # The process boundary of the engine: whatever breaks a batch fails its requests only.
            live: list[Stream] = []
            try:
                if self._continuous is None:
                    self._together(live)
                else:
                    self._flowing(self._continuous, live)
            except Exception as error:
                deliver([(stream, error) for stream in live])
                if self._continuous is not None:
                    self._continuous.reset()
            self.batches.now(rows=0, tokens=0)
        deliver([(stream, None) for stream in self._waiting])

    def _arrived(self, *, wait: bool, seconds: float | None = None) -> bool:
        """Take what has been submitted, waiting for the first of it (at most `seconds`); False
        once the engine is being closed.
        """
        while not self._closing:
            try:
                item = self._arriving.get(wait and not self._waiting, seconds)
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
        from services.teacher.engines.rows import score

        assert self._model is not None
        try:
            scoring.result.set_result(score(self._model, scoring.request))
        except RuntimeError as error:
            scoring.result.set_exception(GenerationFailed(str(error)))

    def _row(self, stream: Stream) -> Row:
        from services.teacher.engines.constraints import Constraint
        from services.teacher.engines.rows import new_row

        assert self._model is not None
        grammar = stream.request.grammar
        constraint = None if grammar is None else Constraint(self._vocabulary, grammar)
        return new_row(self._model, stream.request, constraint)

    def _flowing(self, batch: Continuous, live: list[Stream]) -> None:
        """Steps until nothing runs and nothing waits. `live` are the streams of `batch.rows`."""
        while self._arrived(wait=False) or live:
            self._admit(batch, live)
            if not live:
                return
            self._report(live)
            advance(batch, live)

    def _admit(self, batch: Continuous, live: list[Stream]) -> None:
        """First come, first served, while there is a slot and the tokens fit."""
        before, running = batch.prefilled_tokens, len(live)
        while (stream := self._next(live)) and batch.prefilled_tokens - before < self._prefill:
            live.append(self._waiting.popleft())
            batch.add(self._row(stream))
        self.largest_batch = max(self.largest_batch, len(live))
        joined = len(live) - running
        if joined and running:
            self.batches.joined(joined, "backpressure")
        elif joined:
            self.batches.began(joined)

    def _next(self, live: list[Stream]) -> Stream | None:
        """The request at the head of the queue, if it fits; those whose clients left are gone."""
        while self._waiting and self._waiting[0].closed.is_set():
            self._waiting.popleft()
        if not self._waiting or len(live) >= self._slots or self._closing:
            return None
        reached = sum(stream.room for stream in live) + self._waiting[0].room
        fits = not live or reached <= (self._budget or 0)
        return self._waiting[0] if fits else None

    def _report(self, live: Sequence[Stream]) -> None:
        self.batches.now(rows=len(live), tokens=sum(stream.room for stream in live))

    def _together(self, live: list[Stream]) -> None:
        """One batch of what waits, until each has ended."""
        from services.teacher.engines.decoding import Batch

        assert self._model is not None
        arrived = 0
        while arrived < len(self._waiting) < self._slots:
            arrived = len(self._waiting)
            self._gather()
        taken = [self._waiting.popleft() for _ in range(min(self._slots, len(self._waiting)))]
        live.extend(stream for stream in taken if not stream.closed.is_set())
        self.largest_batch = max(self.largest_batch, len(live))
        if not live:
            return
        self.batches.began(len(live))
        batch = Batch(self._model, [self._row(stream) for stream in live])
        while live:
            self._report(live)
            advance(batch, live)

    def _gather(self) -> None:
        """Wait a moment for more of one burst."""
        time.sleep(GATHER_SECONDS)
        self._arrived(wait=False)


def advance(batch: Continuous | Batch, live: list[Stream]) -> None:
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
