"""What an engine's batches did, under TGI's `tgi_batch_*` names. Safe from any thread."""

from __future__ import annotations

from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Gauge, Histogram

from services.teacher.metrics.exposition import SECONDS, Counts

Method = Literal["prefill", "decode"]
METHODS: tuple[Method, ...] = get_args(Method)
Reason = Literal["backpressure", "chunking", "wait_exceeded"]
REASONS: tuple[Reason, ...] = get_args(Reason)


class Batches:
    """One engine's numbers; an engine that cannot see its batches leaves them at zero."""

    def __init__(self, *, max_total_tokens: int = 0) -> None:
        """`max_total_tokens`: the tokens of prompt and answer that the engine holds at once."""
        self.registry = CollectorRegistry()
        self.counts = Counts()
        for reason in REASONS:
            self.counts.add("tgi_batch_concat", 0, reason=reason)
        for method in METHODS:
            for what in ("count", "success", "failure"):
                self.counts.add(f"tgi_batch_inference_{what}", 0, method=method)
        self._size = self._gauge("tgi_batch_current_size", "requests in the batch")
        self._tokens = self._gauge("tgi_batch_current_max_tokens", "tokens the batch may reach")
        self._most = self._gauge("tgi_batch_max_total_tokens", "tokens all batches may hold")
        self._next = Histogram(
            "tgi_batch_next_size",
            "requests that joined together",
            buckets=tuple(range(1, 1025)),
            registry=self.registry,
        )
        self._timed = {
            part: Histogram(
                f"tgi_batch_{part}_duration",
                "seconds",
                ["method"],
                buckets=SECONDS,
                registry=self.registry,
            )
            for part in ("inference", "forward", "decode", "filter", "concat")
        }
        self.holds(max_total_tokens)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self.registry)

    def holds(self, max_total_tokens: int) -> None:
        """How many tokens fit in all batches together, once it is known."""
        self._most.set(max_total_tokens)

    def now(self, *, rows: int, tokens: int) -> None:
        """The running batch: its requests, and the tokens they may reach together."""
        self._size.set(rows)
        self._tokens.set(tokens)

    def joined(self, rows: int, reason: Reason) -> None:
        """`rows` new requests came into a batch that was already running."""
        self._next.observe(rows)
        self.counts.add("tgi_batch_concat", reason=reason)

    def began(self, rows: int) -> None:
        """A batch of `rows` requests began on an idle engine."""
        self._next.observe(rows)

    def inferred(self, method: Method, *, forward: float, decode: float, good: bool = True) -> None:
        """One call of the model: seconds in the model, seconds choosing and showing tokens."""
        self.counts.add("tgi_batch_inference_count", method=method)
        outcome = "success" if good else "failure"
        self.counts.add(f"tgi_batch_inference_{outcome}", method=method)
        self._timed["inference"].labels(method).observe(forward + decode)
        self._timed["forward"].labels(method).observe(forward)
        self._timed["decode"].labels(method).observe(decode)

    def reshaped(self, part: Literal["filter", "concat"], method: Method, seconds: float) -> None:
        """Rows left (`filter`) or joined (`concat`) the batch's memory."""
        self._timed[part].labels(method).observe(seconds)
