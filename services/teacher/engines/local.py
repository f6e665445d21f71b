"""transformers models from a folder, decoder-only and encoder-decoder, on one worker thread.

The worker takes all requests that wait (up to `slots`), runs them as one batch until each has
ended, and looks again. Tokens cross to the event loop one by one.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from services.teacher.engines.base import EngineInfo, Generation, Piece, Token
from services.teacher.errors import GenerationFailed

if TYPE_CHECKING:
    from services.teacher.engines.decoding import Batch, Model

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

    def send(self, item: Item) -> None:
        """From the worker thread; an event loop that is gone takes nothing."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.inbox.put_nowait, item)


class LocalEngine:
    def __init__(
        self,
        path: Path,
        model_id: str,
        *,
        threads: int,
        slots: int,
        max_total_tokens: int | None,
        max_input_tokens: int | None,
    ) -> None:
        self._path, self._model_id = path, model_id
        self._threads, self._slots = threads, slots
        self._limits = (max_input_tokens, max_total_tokens)
        self._waiting: queue.SimpleQueue[Stream | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._work, name="local", daemon=True)
        self._model: Model | None = None
        self._info: EngineInfo | None = None
        self.largest_batch = 0

    @property
    def info(self) -> EngineInfo:
        assert self._info is not None
        return self._info

    async def start(self) -> None:
        self._model = await asyncio.to_thread(self._load)
        asked_input, asked_total = self._limits
        total = asked_total or min(self._model.positions, DEFAULT_CONTEXT)
        self._info = EngineInfo(self._model_id, "local", asked_input or total - 1, total)
        self._worker.start()

    async def tokenize(self, text: str) -> Sequence[Piece]:
        return await asyncio.to_thread(self._pieces, text)

    async def submit(self, request: Generation) -> AsyncGenerator[Token, None]:
        stream = Stream(request, asyncio.get_running_loop())
        self._waiting.put(stream)
        try:
            while (item := await stream.inbox.get()) is not None:
                if isinstance(item, Exception):
                    raise GenerationFailed(str(item)) from item
                yield item
        finally:
            stream.closed.set()

    async def close(self) -> None:
        if self._worker.is_alive():
            self._waiting.put(None)
            await asyncio.to_thread(self._worker.join)

    def _load(self) -> Model:
        import torch

        from services.teacher.engines import decoding

        torch.set_num_threads(self._threads)
        return decoding.load(self._path)

    def _pieces(self, text: str) -> list[Piece]:
        assert self._model is not None
        tokenizer = self._model.tokenizer
        if not tokenizer.is_fast:
            return [Piece(i, "", 0, 0) for i in tokenizer(text)["input_ids"]]
        out = tokenizer(text, return_offsets_mapping=True)
        spans = [
            (len(text[:start].encode()), len(text[:stop].encode()), text[start:stop])
            for start, stop in out["offset_mapping"]
        ]
        return [
            Piece(i, shown, start, stop)
            for i, (start, stop, shown) in zip(out["input_ids"], spans, strict=True)
        ]

    def _work(self) -> None:
        """The thread's whole life: None in the queue ends it."""
        while (first := self._waiting.get()) is not None:
            streams, last = self._gather(first)
            # The process boundary of the engine: whatever breaks a batch fails its requests only.
            try:
                self._run(streams)
            except Exception as error:
                for stream in streams:
                    stream.send(error)
            if last:
                return

    def _gather(self, first: Stream) -> tuple[list[Stream], bool]:
        """Requests for one batch; True when the engine is being closed."""
        streams = [first]
        while len(streams) < self._slots:
            try:
                item = self._waiting.get(timeout=GATHER_SECONDS)
            except queue.Empty:
                break
            if item is None:
                return streams, True
            streams.append(item)
        return streams, False

    def _run(self, streams: list[Stream]) -> None:
        from services.teacher.engines.decoding import Batch, new_row

        assert self._model is not None
        live = [stream for stream in streams if not stream.closed.is_set()]
        self.largest_batch = max(self.largest_batch, len(live))
        if not live:
            return
        batch = Batch(self._model, [new_row(self._model, stream.request) for stream in live])
        while live:
            live = _advance(batch, live)


def _advance(batch: Batch, live: list[Stream]) -> list[Stream]:
    """One token to each stream; the streams that want more."""
    kept = []
    for i, (stream, token) in enumerate(zip(live, batch.step(), strict=True)):
        stream.send(token)
        stream.sent += 1
        if token.ends or stream.sent >= stream.request.max_new_tokens:
            stream.send(None)
        elif not stream.closed.is_set():
            kept.append(i)
    batch.keep(kept)
    return [live[i] for i in kept]
