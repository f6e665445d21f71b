"""What `prometheus_client` cannot write: counters without `_total`, as TGI names them."""

from __future__ import annotations

import threading
from collections import Counter

# router/src/server.rs 1937-1947
SECONDS = tuple(0.0001 * 1.5**k for k in range(1, 36))


class Counts:
    """Counters by name and labels. Safe from any thread."""

    def __init__(self, *names: str) -> None:
        """`names` are shown as 0 before they first move."""
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter(dict.fromkeys(((n, "") for n in names), 0))

    def add(self, name: str, amount: int = 1, **labels: str) -> None:
        """`amount` 0 shows a counter that has not moved yet, as a rate needs its first value."""
        shown = ",".join(f'{key}="{value}"' for key, value in labels.items())
        with self._lock:
            self._counts[name, f"{{{shown}}}" if shown else ""] += amount

    def render(self) -> bytes:
        with self._lock:
            counts = sorted(self._counts.items())
        lines = []
        for name in dict.fromkeys(name for (name, _), _ in counts):
            lines.append(f"# TYPE {name} counter")
            lines += [f"{n}{labels} {value}" for (n, labels), value in counts if n == name]
        return "".join(f"{line}\n" for line in lines).encode()
