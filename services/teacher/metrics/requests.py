"""TGI's Prometheus names for requests; the engine's batches bring their own (`batches`)."""

from __future__ import annotations

from typing import Literal

from prometheus_client import CollectorRegistry, Gauge, Histogram, Summary, generate_latest

from services.teacher.metrics.batches import Batches
from services.teacher.metrics.exposition import SECONDS, Counts

Failure = Literal["validation", "overloaded", "generation", "incomplete", "dropped", "template"]
FAILURES: dict[str, Failure] = {
    "validation": "validation",
    "tool_error": "validation",
    "overloaded": "overloaded",
    "incomplete_generation": "incomplete",
    "template_error": "template",
    "missing_template_variable": "template",
}
"""error_type to the label `err`; anything else is `generation`."""


class Metrics:
    """One server's numbers; every request is counted once."""

    def __init__(self, *, max_input_tokens: int = 1024, max_total_tokens: int = 1024) -> None:
        self._registry = CollectorRegistry()
        self._counts = Counts("tgi_request_count", "tgi_request_success")
        self._timed = {
            name: Histogram(
                f"tgi_request_{name}_duration" if name else "tgi_request_duration",
                "seconds",
                buckets=SECONDS,
                registry=self._registry,
            )
            for name in ("", "validation", "queue", "inference", "mean_time_per_token")
        }
        self._input = self._lengths("tgi_request_input_length", max_input_tokens)
        self._new = self._lengths("tgi_request_max_new_tokens", max_total_tokens)
        self._generated = self._lengths("tgi_request_generated_tokens", max_total_tokens)
        self._skipped = Summary(
            "tgi_request_skipped_tokens", "tokens guessed right", registry=self._registry
        )
        self._queued = Gauge(
            "tgi_queue_size", "requests admitted, without a token", registry=self._registry
        )

    def _lengths(self, name: str, top: int) -> Histogram:
        buckets = tuple(top * k / 100 for k in range(1, 101))
        return Histogram(name, "tokens", buckets=buckets, registry=self._registry)

    def arrived(self) -> None:
        self._counts.add("tgi_request_count")

    def admitted(self, *, input_length: int | None, max_new_tokens: int) -> None:
        if input_length is not None:
            self._input.observe(input_length)
        self._new.observe(max_new_tokens)

    def failed(self, error_type: str) -> None:
        self._counts.add("tgi_request_failure", err=FAILURES.get(error_type, "generation"))

    def dropped(self) -> None:
        self._counts.add("tgi_request_failure", err="dropped")

    def succeeded(
        self, *, total: float, validation: float, queue: float, inference: float, tokens: int
    ) -> None:
        """Seconds of one finished request and the tokens it generated."""
        self._counts.add("tgi_request_success")
        self._generated.observe(tokens)
        self._skipped.observe(0)
        self._timed[""].observe(total)
        self._timed["validation"].observe(validation)
        self._timed["queue"].observe(queue)
        self._timed["inference"].observe(inference)
        self._timed["mean_time_per_token"].observe(inference / max(tokens, 1))

    def render(self, batches: Batches, *, queued: int) -> bytes:
        """The exposition; `queued` requests are admitted and have no token yet."""
        self._queued.set(queued)
        parts = (self._counts.render(), generate_latest(self._registry))
        return b"".join((*parts, batches.counts.render(), generate_latest(batches.registry)))
