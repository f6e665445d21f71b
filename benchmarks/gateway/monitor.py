"""What is seen of a gateway while it is loaded: its process, and how long `/health` takes."""

from __future__ import annotations

import http.client
import math
import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.parse import urlsplit

SAMPLE_SECONDS = 0.05
HEALTH_SECONDS = 0.01
"""Between an answer and the next request."""
MEGABYTE = 10**6
TICKS = os.sysconf("SC_CLK_TCK")
apart = multiprocessing.get_context("spawn")
"""Makes processes that share nothing with this one."""


@dataclass
class Seen:
    """Of one process: the largest resident size and number of threads, processor seconds."""

    rss: int = 0
    threads: int = 0
    processor: float = 0.0
    seconds: float = 0.0

    @property
    def share(self) -> float:
        """Of one core."""
        return self.processor / self.seconds


@contextmanager
def watched(pid: int) -> Iterator[Seen]:
    """Looked at every `SAMPLE_SECONDS`; complete when the block is left."""
    seen, over = Seen(), threading.Event()

    def look() -> None:
        while True:
            seen.rss = max(seen.rss, status(pid, "VmRSS") * 1024)
            seen.threads = max(seen.threads, status(pid, "Threads"))
            if over.wait(SAMPLE_SECONDS):
                return

    watcher = threading.Thread(target=look)
    began, spent = time.perf_counter(), processor_seconds(pid)
    watcher.start()
    try:
        yield seen
    finally:
        seen.seconds = time.perf_counter() - began
        seen.processor = processor_seconds(pid) - spent
        over.set()
        watcher.join()


def status(pid: int, name: str) -> int:
    """A number out of Linux's account of a process; sizes are in units of 1024 bytes."""
    account = Path(f"/proc/{pid}/status").read_text()
    return int(account.split(f"\n{name}:")[1].split()[0])


def processor_seconds(pid: int) -> float:
    """User and system time of all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@dataclass
class Asked:
    """How long `/health` took, each time."""

    seconds: list[float] = field(default_factory=list)


@contextmanager
def asking_health(url: str) -> Iterator[Asked]:
    """One client in a process of its own, so that its times hold nothing of the other clients'."""
    asked = Asked()
    ours, theirs = apart.Pipe()
    process = apart.Process(target=_ask, args=(url, theirs), daemon=True)
    process.start()
    theirs.close()
    ours.recv()
    try:
        yield asked
    finally:
        ours.send("enough")
        asked.seconds = ours.recv()
        process.join()


def _ask(url: str, pipe: Connection) -> None:
    seconds: list[float] = []
    place = urlsplit(url)
    # The cheapest client there is: what it needs itself would count as the gateway's.
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
    pipe.send("ready")
    while not pipe.poll(HEALTH_SECONDS):
        began = time.perf_counter()
        connection.request("GET", "/health")
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise RuntimeError(f"/health answers {answer.status}")
        seconds.append(time.perf_counter() - began)
    connection.close()
    pipe.send(seconds)


def p50(seconds: Sequence[float]) -> float:
    """In milliseconds."""
    return 1000 * statistics.median(seconds)


def p99(seconds: Sequence[float]) -> float:
    """In milliseconds: the smallest that 99 in 100 do not exceed."""
    return 1000 * sorted(seconds)[math.ceil(0.99 * len(seconds)) - 1]
