"""Metrics that `prometheus_client` cannot write: counters without `_total`, as TGI names them."""

from __future__ import annotations

import threading
from collections import Counter

# router/src/server.rs 1937-1947
DURATION_BUCKETS = tuple(0.0001 * 1.5**k for k in range(1, 36))


class UnsuffixedCounters:
    """Counters by name and labels. Safe from any thread."""

    def __init__(self, *names: str) -> None:
        """`names` are shown as 0 before they first move."""
        self._lock = threading.Lock()
        self._values: Counter[tuple[str, str]] = Counter(dict.fromkeys(((n, "") for n in names), 0))

    def inc(self, name: str, amount: int = 1, **labels: str) -> None:
        """`amount` 0 shows a counter that has not moved yet, as a rate needs its first value."""
        label_text = ",".join(f'{key}="{value}"' for key, value in labels.items())
        with self._lock:
            self._values[name, f"{{{label_text}}}" if label_text else ""] += amount

    def render(self) -> bytes:
        with self._lock:
            counts = sorted(self._values.items())
        lines = []
        for name in dict.fromkeys(name for (name, _), _ in counts):
            lines.append(f"# TYPE {name} counter")
            lines += [f"{n}{labels} {value}" for (n, labels), value in counts if n == name]
        return "".join(f"{line}\n" for line in lines).encode()
