"""TGI's Prometheus names. TGI's counters have no `_total`, which prometheus_client always adds."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest

Failure = Literal["validation", "overloaded", "generation", "incomplete", "dropped"]
FAILURES: dict[str, Failure] = {
    "validation": "validation",
    "overloaded": "overloaded",
    "incomplete_generation": "incomplete",
}
"""error_type to the label `err`; anything else is `generation`."""

# router/src/server.rs 1937-1947
SECONDS = tuple(0.0001 * 1.5**k for k in range(1, 36))


class Metrics:
    """One server's numbers; every request is counted once."""

    def __init__(self, *, max_input_tokens: int = 1024, max_total_tokens: int = 1024) -> None:
        self._registry = CollectorRegistry()
        self._counts: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        timed = {
            name: Histogram(
                f"tgi_request_{name}_duration" if name else "tgi_request_duration",
                "seconds",
                buckets=SECONDS,
                registry=self._registry,
            )
            for name in ("", "validation", "queue", "inference", "mean_time_per_token")
        }
        self._timed = timed
        self._input = self._lengths("tgi_request_input_length", max_input_tokens)
        self._new = self._lengths("tgi_request_max_new_tokens", max_total_tokens)
        self._generated = self._lengths("tgi_request_generated_tokens", max_total_tokens)
        self._running = Gauge(
            "tgi_batch_current_size", "requests being generated", registry=self._registry
        )
        self._queued = Gauge(
            "tgi_queue_size", "requests admitted, without a token", registry=self._registry
        )

    def _lengths(self, name: str, top: int) -> Histogram:
        buckets = tuple(top * k / 100 for k in range(1, 101))
        return Histogram(name, "tokens", buckets=buckets, registry=self._registry)

    def arrived(self) -> None:
        self._counts["tgi_request_count"] += 1

    def admitted(self, *, input_length: int | None, max_new_tokens: int) -> None:
        if input_length is not None:
            self._input.observe(input_length)
        self._new.observe(max_new_tokens)

    def failed(self, error_type: str) -> None:
        self._failures[FAILURES.get(error_type, "generation")] += 1

    def dropped(self) -> None:
        self._failures["dropped"] += 1

    def succeeded(
        self, *, total: float, validation: float, queue: float, inference: float, tokens: int
    ) -> None:
        """Seconds of one finished request and the tokens it generated."""
        self._counts["tgi_request_success"] += 1
        self._generated.observe(tokens)
        self._timed[""].observe(total)
        self._timed["validation"].observe(validation)
        self._timed["queue"].observe(queue)
        self._timed["inference"].observe(inference)
        self._timed["mean_time_per_token"].observe(inference / max(tokens, 1))

    def render(self, *, queued: int, running: int) -> bytes:
        """The exposition; `queued` requests are admitted and have no token yet."""
        self._queued.set(queued)
        self._running.set(running)
        lines = []
        for name in ("tgi_request_count", "tgi_request_success"):
            lines += [f"# TYPE {name} counter", f"{name} {self._counts[name]}"]
        lines.append("# TYPE tgi_request_failure counter")
        lines += [
            f'tgi_request_failure{{err="{err}"}} {count}'
            for err, count in sorted(self._failures.items())
        ]
        return ("\n".join(lines) + "\n").encode() + generate_latest(self._registry)
