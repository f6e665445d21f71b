"""A thread of the local engine: it admits requests and sends their tokens to the event loop.

Requests are taken first come, first served, as many as slots and the token budget allow. Tokens
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
from dataclasses import dataclass, field, replace
from typing import Any

from services.teacher.engines.base import Token, ValidGenerateRequest
from services.teacher.engines.copies import Copy, share_slots
from services.teacher.engines.transformers.continuous_batching import (
    ContinuousBatch,
    supports_continuous_batching,
)
from services.teacher.engines.transformers.grammar_mask import (
    AnswerMatcher,
    GrammarMatcher,
    TokenMatcher,
    build_grammar_tokenizer,
)
from services.teacher.engines.transformers.sequence import (
    SequenceState,
    create_sequence,
    score_prompt,
)
from services.teacher.engines.transformers.static_batching import StaticBatches
from services.teacher.engines.transformers.weights import LoadedModel
from services.teacher.errors import GenerationFailed
from services.teacher.metrics.batches import BatchMetrics

# Requests of one burst reach the worker within this many seconds of each other, and can then begin
# as one batch.
BATCH_WAIT_SECONDS = 0.01
MAX_JOINT_PROMPTS = 16
"""Requests that are admitted at once; how much is read between two steps is a limit of its own."""
StreamItem = Token | Exception | None


@dataclass(eq=False)
class RequestStream:
    """One submitted request: the queue of its tokens and the event that cancels it."""

    request: ValidGenerateRequest
    loop: asyncio.AbstractEventLoop
    inbox: asyncio.Queue[StreamItem] = field(default_factory=asyncio.Queue)
    closed: threading.Event = field(default_factory=threading.Event)
    tokens_sent: int = 0

    def record_token(self, token: Token) -> bool:
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


@dataclass(frozen=True)
class BatchLimits:
    """Limits of the batch. `slots`: requests; `max_total_tokens`: tokens of one of them;
    `max_batch_total_tokens`: tokens all of them may reach together; `max_batch_prefill_tokens`:
    prompt tokens read between two steps of the running ones.
    """

    slots: int
    max_total_tokens: int
    max_batch_total_tokens: int
    max_batch_prefill_tokens: int


class EngineWorker(Copy):
    """Runs a batch of its own in its own thread; workers beside it may share its `model`. A None in
    `incoming` closes it."""

    def __init__(
        self,
        model: LoadedModel,
        limits: BatchLimits,
        batch_metrics: BatchMetrics,
        grammar_tokenizer: Any,
    ) -> None:
        super().__init__(limits.slots)
        self._model, self._limits, self._batch_metrics = model, limits, batch_metrics
        self.grammar_tokenizer = grammar_tokenizer
        self.batch = self._create_batch()
        self.incoming: queue.SimpleQueue[RequestStream | ScoringRequest | None] = (
            queue.SimpleQueue()
        )
        self.largest_batch = 0
        self._waiting: deque[RequestStream] = deque()
        self._closing = False
        self.thread = threading.Thread(target=self._run, name="local", daemon=True)

    def _create_batch(self) -> ContinuousBatch | StaticBatches:
        """Continuous batching where it reproduces this model's logits, else static batches."""
        model, limits = self._model, self._limits
        if model.seq2seq:
            return StaticBatches(model)
        batch = ContinuousBatch(
            model,
            slots=limits.slots,
            max_total_tokens=limits.max_total_tokens,
            batch_metrics=self._batch_metrics,
        )
        probe = create_sequence(
            model, ValidGenerateRequest("", tuple(range(min(8, limits.max_total_tokens - 1))), 1)
        )
        if not supports_continuous_batching(model, probe, batch):
            return StaticBatches(model)
        batch.prefilled_tokens = 0
        return batch

    def _run(self) -> None:
        """The thread's loop, until the engine is closed."""
        while self._receive(wait=True):
            # The boundary of the engine's thread: an exception fails the batch's requests only.
            active: list[RequestStream] = []
            try:
                self._run_until_idle(active)
            except Exception as error:
                deliver([(stream, error) for stream in active])
                self.batch.reset()
            self._batch_metrics.set_current_batch(self, size=0, max_tokens=0)
        deliver([(stream, None) for stream in self._waiting])

    def _receive(self, *, wait: bool, seconds: float | None = None) -> bool:
        """Take what has been submitted, waiting for the first of it (at most `seconds`); False
        once the engine is being closed.
        """
        while not self._closing:
            try:
                item = self.incoming.get(wait and not self._waiting, seconds)
            except queue.Empty:
                return True
            if isinstance(item, ScoringRequest):
                self._score(item)
            elif item is None:
                self._closing = True
            else:
                self._waiting.append(item)
        return False

    def _score(self, request: ScoringRequest) -> None:
        try:
            request.result.set_result(score_prompt(self._model, request.request))
        except RuntimeError as error:
            request.result.set_exception(GenerationFailed(str(error)))

    def _create_sequence(self, stream: RequestStream) -> SequenceState:
        return create_sequence(self._model, stream.request, self._make_matcher(stream.request))

    def _make_matcher(self, request: ValidGenerateRequest) -> TokenMatcher | None:
        if request.grammar is not None:
            return GrammarMatcher(self.grammar_tokenizer, request.grammar)
        return None if request.answer_form is None else AnswerMatcher(request.answer_form)

    def _run_until_idle(self, active: list[RequestStream]) -> None:
        """Step until no request runs or waits. `active`: the streams of the batch's sequences."""
        if isinstance(self.batch, StaticBatches):
            time.sleep(BATCH_WAIT_SECONDS)
        while self._receive(wait=False) or active:
            self._admit(active)
            if not active:
                return
            self._record_batch(active)
            step_batch(self.batch, active)

    def _admit(self, active: list[RequestStream]) -> None:
        """First come, first served, while there is a slot and the tokens fit."""
        batch, running = self.batch, len(active)
        before = batch.prefilled_tokens
        if not batch.has_capacity:
            return
        while batch.prefilled_tokens - before < self._limits.max_batch_prefill_tokens:
            first = len(active)
            while len(active) - first < MAX_JOINT_PROMPTS and self._next_fitting(active):
                active.append(self._waiting.popleft())
            if len(active) == first:
                break
            batch.add([self._create_sequence(stream) for stream in active[first:]])
        self.largest_batch = max(self.largest_batch, len(active))
        joined = len(active) - running
        if joined and running:
            self._batch_metrics.record_concat(joined, "backpressure")
        elif joined:
            self._batch_metrics.record_new_batch(joined)

    def _next_fitting(self, active: list[RequestStream]) -> RequestStream | None:
        """The first waiting request, if it fits; requests whose clients left are dropped."""
        while self._waiting and self._waiting[0].closed.is_set():
            self._waiting.popleft()
        if not self._waiting or len(active) >= self._limits.slots or self._closing:
            return None
        total_tokens = (
            sum(stream.max_total_tokens for stream in active) + self._waiting[0].max_total_tokens
        )
        fits = not active or total_tokens <= self._limits.max_batch_total_tokens
        return self._waiting[0] if fits else None

    def _record_batch(self, active: Sequence[RequestStream]) -> None:
        self._batch_metrics.set_current_batch(
            self, size=len(active), max_tokens=sum(stream.max_total_tokens for stream in active)
        )


def make_workers(
    model: LoadedModel, limits: BatchLimits, batch_metrics: BatchMetrics, count: int
) -> list[EngineWorker]:
    """`count` workers that share out the limits; one where several cannot run `model` at once."""
    grammar_tokenizer = build_grammar_tokenizer(model)

    def make_worker(own: BatchLimits) -> EngineWorker:
        return EngineWorker(model, own, batch_metrics, grammar_tokenizer)

    shares = share_slots(limits.slots, count)
    if len(shares) == 1 or not can_run_at_once(model):
        return [make_worker(limits)]
    budget = limits.max_batch_total_tokens
    workers = [
        make_worker(
            replace(limits, slots=slots, max_batch_total_tokens=budget * slots // limits.slots)
        )
        for slots in shares
    ]
    if isinstance(workers[0].batch, StaticBatches):
        return [make_worker(limits)]
    return workers


def can_run_at_once(model: LoadedModel) -> bool:
    """Whether threads may call `model` beside each other: not on an accelerator, which they would
    wait for, and not where a call changes what others read, adapters or rotary frequencies that
    depend on a length."""
    changes_rotation = any(
        "dynamic" in str(kind) or "longrope" in str(kind)
        for module in model.net.modules()
        if (kind := getattr(module, "rope_type", None)) is not None
    )
    return model.net.device.type == "cpu" and not model.adapters and not changes_rotation


def step_batch(batch: ContinuousBatch | StaticBatches, active: list[RequestStream]) -> None:
    """Send one token to each stream; finished ones leave `active` and the batch."""
    items: list[tuple[RequestStream, StreamItem]] = []
    finished = []
    for index, (stream, token) in enumerate(zip(active, batch.step(), strict=True)):
        items.append((stream, token))
        unfinished = stream.record_token(token)
        if not unfinished:
            items.append((stream, None))
        if not unfinished or stream.closed.is_set():
            finished.append(index)
    deliver(items)
    active[:] = [active[place] for place in batch.remove(finished)]


def deliver(items: Sequence[tuple[RequestStream, StreamItem]]) -> None:
    """Hand items to the event loops from the worker thread, one call per loop that is open."""

    def put(pairs: Sequence[tuple[RequestStream, StreamItem]]) -> None:
        for stream, item in pairs:
            stream.inbox.put_nowait(item)

    for loop in {stream.loop for stream, _ in items}:
        if not loop.is_closed():
            loop.call_soon_threadsafe(put, [pair for pair in items if pair[0].loop is loop])
