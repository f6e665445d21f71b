"""A thread of the local engine: it admits requests and sends their tokens on.

Requests are taken first come, first served, as many as slots and the token budget allow. Tokens
are delivered once per step.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services.teacher.engines.base import ValidGenerateRequest
from services.teacher.engines.transformers.continuous_batching import (
    ContinuousBatch,
    supports_continuous_batching,
)
from services.teacher.engines.transformers.grammar_mask import (
    AnswerMatcher,
    GrammarMatcher,
    TokenMatcher,
)
from services.teacher.engines.transformers.request_stream import (
    Deliver,
    RequestStream,
    ScoringRequest,
    StreamItem,
    Worker,
    deliver_to_loops,
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


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker runs: the model, its share of the limits, and the model's tokenizer as grammars
    need it, None where it cannot be had."""

    model: LoadedModel
    limits: BatchLimits
    grammar_tokenizer: Any


class WorkerThread(Worker):
    """Runs a batch of its own in a thread of this process. A None in `_incoming` closes it."""

    def __init__(
        self,
        setup: WorkerSetup,
        batch_metrics: BatchMetrics,
        deliver: Deliver = deliver_to_loops,
    ) -> None:
        super().__init__(setup.limits.slots)
        self._model, self._limits = setup.model, setup.limits
        self._grammar_tokenizer = setup.grammar_tokenizer
        self._batch_metrics, self._deliver = batch_metrics, deliver
        self.batch = self._create_batch()
        self._incoming: queue.SimpleQueue[RequestStream | ScoringRequest | None] = (
            queue.SimpleQueue()
        )
        self._waiting: deque[RequestStream] = deque()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="local", daemon=True)

    @property
    def prefilled_tokens(self) -> int:
        return self.batch.prefilled_tokens

    def start(self) -> None:
        self._thread.start()

    def submit(self, asked: RequestStream | ScoringRequest) -> None:
        self._incoming.put(asked)

    def cancel(self, stream: RequestStream) -> None:
        stream.closed.set()

    def close(self) -> None:
        if self._thread.is_alive():
            self._incoming.put(None)
            self._thread.join()

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
                self._deliver([(stream, error) for stream in active])
                self.batch.reset()
            self._batch_metrics.set_current_batch(self, size=0, max_tokens=0)
        self._deliver([(stream, None) for stream in self._waiting])

    def _receive(self, *, wait: bool, seconds: float | None = None) -> bool:
        """Take what has been submitted, waiting for the first of it (at most `seconds`); False
        once the engine is being closed.
        """
        while not self._closing:
            try:
                item = self._incoming.get(wait and not self._waiting, seconds)
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
        if not request.result.set_running_or_notify_cancel():  # its client left while it waited
            return
        try:
            request.result.set_result(score_prompt(self._model, request.request))
        except RuntimeError as error:
            request.result.set_exception(GenerationFailed(str(error)))

    def _create_sequence(self, stream: RequestStream) -> SequenceState:
        return create_sequence(self._model, stream.request, self._make_matcher(stream.request))

    def _make_matcher(self, request: ValidGenerateRequest) -> TokenMatcher | None:
        if request.grammar is not None:
            return GrammarMatcher(self._grammar_tokenizer, request.grammar)
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
            self._step(active)

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

    def _step(self, active: list[RequestStream]) -> None:
        """Send one token to each stream; finished ones leave `active` and the batch."""
        items: list[tuple[RequestStream, StreamItem]] = []
        finished = []
        for index, (stream, token) in enumerate(zip(active, self.batch.step(), strict=True)):
            items.append((stream, token))
            unfinished = stream.record_token(token)
            if not unfinished:
                items.append((stream, None))
            if not unfinished or stream.closed.is_set():
                finished.append(index)
        self._deliver(items)
        active[:] = [active[place] for place in self.batch.remove(finished)]

    def _record_batch(self, active: Sequence[RequestStream]) -> None:
        self._batch_metrics.set_current_batch(
            self, size=len(active), max_tokens=sum(stream.max_total_tokens for stream in active)
        )
