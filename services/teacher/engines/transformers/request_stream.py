"""What is asked of a worker, and how its tokens come back to the event loop."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from services.teacher.engines.base import Token, ValidGenerateRequest
from services.teacher.engines.copies import Copy

StreamItem = Token | Exception | None


@dataclass(eq=False)
class RequestStream:
    """One submitted request: the queue of its tokens and the event that cancels it. `loop`: where
    the queue is read. `number`: what another process knows it by."""

    request: ValidGenerateRequest
    loop: asyncio.AbstractEventLoop | None = None
    inbox: asyncio.Queue[StreamItem] = field(default_factory=asyncio.Queue)
    closed: threading.Event = field(default_factory=threading.Event)
    tokens_sent: int = 0
    number: int = -1

    def record_token(self, token: Token) -> bool:
        """Whether more are to come."""
        self.tokens_sent += 1
        return not token.finish_reason and self.tokens_sent < self.request.max_new_tokens

    @property
    def max_total_tokens(self) -> int:
        """Most tokens of prompt and output together."""
        return len(self.request.prompt_token_ids or ()) + self.request.max_new_tokens


@dataclass(eq=False)
class ScoringRequest:
    """A prompt whose tokens' log-probabilities are computed between two steps of the batch."""

    request: ValidGenerateRequest
    result: Future[list[Token]] = field(default_factory=Future)


Delivered = Sequence[tuple[RequestStream, StreamItem]]
Deliver = Callable[[Delivered], None]


class Worker(Copy, ABC):
    """A copy of the model at work: in a thread, or in a process of its own. `largest_batch`: the
    most requests that have run at once."""

    largest_batch: int = 0

    @property
    @abstractmethod
    def prefilled_tokens(self) -> int:
        """Prompt tokens that went through the model."""

    @abstractmethod
    def start(self) -> None:
        """Begin to take requests."""

    @abstractmethod
    def submit(self, asked: RequestStream | ScoringRequest) -> None:
        """Without waiting; tokens come by the stream's queue, a score by its future."""

    @abstractmethod
    def cancel(self, stream: RequestStream) -> None:
        """Nobody reads it any more; one that has ended is none of the worker's."""

    @abstractmethod
    def close(self) -> None:
        """Wait for the end of the step that runs; streams still open end without a last token."""


def deliver_to_loops(items: Delivered) -> None:
    """Hand items to the event loops from another thread, one call per loop that is open."""

    def put(pairs: Delivered) -> None:
        for stream, item in pairs:
            stream.inbox.put_nowait(item)

    for loop in {stream.loop for stream, _ in items}:
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(put, [pair for pair in items if pair[0].loop is loop])
