"""Metrics of requests under TGI's Prometheus names; `batches` has those of the engine."""

from __future__ import annotations

from typing import Literal

from prometheus_client import CollectorRegistry, Gauge, Histogram, Summary, generate_latest

from services.teacher.metrics.batches import BatchMetrics
from services.teacher.metrics.exposition import DURATION_BUCKETS, UnsuffixedCounters

FailureLabel = Literal[
    "validation", "overloaded", "generation", "incomplete", "dropped", "template"
]
FAILURE_LABELS: dict[str, FailureLabel] = {
    "validation": "validation",
    "tool_error": "validation",
    "overloaded": "overloaded",
    "incomplete_generation": "incomplete",
    "template_error": "template",
    "missing_template_variable": "template",
}
"""error_type to the label `err`; anything else is `generation`."""


class RequestMetrics:
    """Metrics of one server; every request is counted once."""

    def __init__(self, *, max_input_tokens: int = 1024, max_total_tokens: int = 1024) -> None:
        self._registry = CollectorRegistry()
        self._counters = UnsuffixedCounters("tgi_request_count", "tgi_request_success")
        self._durations = {
            name: Histogram(
                f"tgi_request_{name}_duration" if name else "tgi_request_duration",
                "seconds",
                buckets=DURATION_BUCKETS,
                registry=self._registry,
            )
            for name in ("", "validation", "queue", "inference", "mean_time_per_token")
        }
        self._input_length = self._create_token_histogram(
            "tgi_request_input_length", max_input_tokens
        )
        self._max_new_tokens = self._create_token_histogram(
            "tgi_request_max_new_tokens", max_total_tokens
        )
        self._generated_tokens = self._create_token_histogram(
            "tgi_request_generated_tokens", max_total_tokens
        )
        self._skipped_tokens = Summary(
            "tgi_request_skipped_tokens", "tokens guessed right", registry=self._registry
        )
        self._queue_size = Gauge(
            "tgi_queue_size", "requests admitted, without a token", registry=self._registry
        )

    def _create_token_histogram(self, name: str, max_tokens: int) -> Histogram:
        buckets = tuple(max_tokens * k / 100 for k in range(1, 101))
        return Histogram(name, "tokens", buckets=buckets, registry=self._registry)

    def record_request(self) -> None:
        self._counters.inc("tgi_request_count")

    def record_admission(self, *, input_length: int | None, max_new_tokens: int) -> None:
        if input_length is not None:
            self._input_length.observe(input_length)
        self._max_new_tokens.observe(max_new_tokens)

    def record_failure(self, error_type: str) -> None:
        self._counters.inc("tgi_request_failure", err=FAILURE_LABELS.get(error_type, "generation"))

    def record_disconnect(self) -> None:
        self._counters.inc("tgi_request_failure", err="dropped")

    def record_success(
        self, *, total: float, validation: float, queue: float, inference: float, tokens: int
    ) -> None:
        """Seconds of one finished request and the tokens it generated."""
        self._counters.inc("tgi_request_success")
        self._generated_tokens.observe(tokens)
        self._skipped_tokens.observe(0)
        self._durations[""].observe(total)
        self._durations["validation"].observe(validation)
        self._durations["queue"].observe(queue)
        self._durations["inference"].observe(inference)
        self._durations["mean_time_per_token"].observe(inference / max(tokens, 1))

    def render(self, batch_metrics: BatchMetrics, *, queue_size: int) -> bytes:
        """The exposition; `queue_size`: admitted requests without a token yet."""
        self._queue_size.set(queue_size)
        parts = (self._counters.render(), generate_latest(self._registry))
        return b"".join(
            (*parts, batch_metrics.counters.render(), generate_latest(batch_metrics.registry))
        )
