"""Metrics of an engine's batches, under TGI's `tgi_batch_*` names. Safe from any thread."""

from __future__ import annotations

import threading
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Gauge, Histogram

from services.teacher.metrics.exposition import DURATION_BUCKETS, UnsuffixedCounters

InferenceMethod = Literal["prefill", "decode"]
INFERENCE_METHODS: tuple[InferenceMethod, ...] = get_args(InferenceMethod)
ConcatReason = Literal["backpressure", "chunking", "wait_exceeded"]
CONCAT_REASONS: tuple[ConcatReason, ...] = get_args(ConcatReason)


class BatchMetrics:
    """Metrics of one engine; an engine that cannot see its batches leaves them at zero."""

    def __init__(self, *, max_total_tokens: int = 0) -> None:
        """`max_total_tokens`: the tokens of prompt and output that fit in the engine at once."""
        self.registry = CollectorRegistry()
        self.counters = UnsuffixedCounters()
        for reason in CONCAT_REASONS:
            self.counters.inc("tgi_batch_concat", 0, reason=reason)
        for method in INFERENCE_METHODS:
            for outcome in ("count", "success", "failure"):
                self.counters.inc(f"tgi_batch_inference_{outcome}", 0, method=method)
        self._running: dict[int, tuple[int, int]] = {}
        self._running_lock = threading.Lock()
        self._current_size = self._create_gauge("tgi_batch_current_size", "requests in the batch")
        self._current_max_tokens = self._create_gauge(
            "tgi_batch_current_max_tokens", "tokens the batch may reach"
        )
        self._max_total_tokens = self._create_gauge(
            "tgi_batch_max_total_tokens", "tokens all batches may hold"
        )
        self._next_size = Histogram(
            "tgi_batch_next_size",
            "requests that joined together",
            buckets=tuple(range(1, 1025)),
            registry=self.registry,
        )
        self._durations = {
            part: Histogram(
                f"tgi_batch_{part}_duration",
                "seconds",
                ["method"],
                buckets=DURATION_BUCKETS,
                registry=self.registry,
            )
            for part in ("inference", "forward", "decode", "filter", "concat")
        }
        self.set_capacity(max_total_tokens)

    def _create_gauge(self, name: str, description: str) -> Gauge:
        return Gauge(name, description, registry=self.registry)

    def set_capacity(self, max_total_tokens: int) -> None:
        """How many tokens fit in all batches together, once it is known."""
        self._max_total_tokens.set(max_total_tokens)

    def set_current_batch(self, runner: object, *, size: int, max_tokens: int) -> None:
        """The batch that `runner` has: its requests, and the tokens they may reach together. What
        is told is the sum over all runners."""
        with self._running_lock:
            self._running[id(runner)] = (size, max_tokens)
            sizes, tokens = zip(*self._running.values(), strict=True)
            self._current_size.set(sum(sizes))
            self._current_max_tokens.set(sum(tokens))

    def record_concat(self, size: int, reason: ConcatReason) -> None:
        """`size` new requests came into a batch that was already running."""
        self._next_size.observe(size)
        self.counters.inc("tgi_batch_concat", reason=reason)

    def record_new_batch(self, size: int) -> None:
        """A batch of `size` requests began on an idle engine."""
        self._next_size.observe(size)

    def record_inference(
        self, method: InferenceMethod, *, forward: float, decode: float, succeeded: bool = True
    ) -> None:
        """One call of the model: seconds in the model, seconds choosing and decoding tokens."""
        self.counters.inc("tgi_batch_inference_count", method=method)
        outcome = "success" if succeeded else "failure"
        self.counters.inc(f"tgi_batch_inference_{outcome}", method=method)
        self._durations["inference"].labels(method).observe(forward + decode)
        self._durations["forward"].labels(method).observe(forward)
        self._durations["decode"].labels(method).observe(decode)

    def record_reshape(
        self, operation: Literal["filter", "concat"], method: InferenceMethod, seconds: float
    ) -> None:
        """Sequences left (`filter`) or joined (`concat`) the batch's cache."""
        self._durations[operation].labels(method).observe(seconds)
