"""Monitor a gateway under load: its process, and the latency of `/health`."""

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
"""Between a response and the next request."""
MEGABYTE = 10**6
TICKS = os.sysconf("SC_CLK_TCK")
spawn_context = multiprocessing.get_context("spawn")
"""Starts processes that share nothing with this one."""


@dataclass
class ProcessUsage:
    """Of one process: largest resident size, largest number of threads, CPU seconds."""

    rss: int = 0
    threads: int = 0
    processor: float = 0.0
    seconds: float = 0.0

    @property
    def share(self) -> float:
        """CPU usage as a share of one core."""
        return self.processor / self.seconds


@contextmanager
def watch_process(pid: int) -> Iterator[ProcessUsage]:
    """Sample the process every `SAMPLE_SECONDS` until the block is left."""
    usage, stopped = ProcessUsage(), threading.Event()

    def sample() -> None:
        while True:
            usage.rss = max(usage.rss, read_status_field(pid, "VmRSS") * 1024)
            usage.threads = max(usage.threads, read_status_field(pid, "Threads"))
            if stopped.wait(SAMPLE_SECONDS):
                return

    watcher = threading.Thread(target=sample)
    started_at, cpu_before = time.perf_counter(), read_cpu_seconds(pid)
    watcher.start()
    try:
        yield usage
    finally:
        usage.seconds = time.perf_counter() - started_at
        usage.processor = read_cpu_seconds(pid) - cpu_before
        stopped.set()
        watcher.join()


def read_status_field(pid: int, name: str) -> int:
    """A number from `/proc/PID/status`; sizes are in units of 1024 bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split(f"\n{name}:")[1].split()[0])


def read_cpu_seconds(pid: int) -> float:
    """User and system time of all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@dataclass
class HealthLatencies:
    """The latency of each request to `/health`."""

    seconds: list[float] = field(default_factory=list)


@contextmanager
def poll_health(url: str) -> Iterator[HealthLatencies]:
    """Poll from a process of its own, so that other clients do not delay it."""
    latencies = HealthLatencies()
    parent_pipe, child_pipe = spawn_context.Pipe()
    process = spawn_context.Process(target=_poll_loop, args=(url, child_pipe), daemon=True)
    process.start()
    child_pipe.close()
    parent_pipe.recv()
    try:
        yield latencies
    finally:
        parent_pipe.send("enough")
        latencies.seconds = parent_pipe.recv()
        process.join()


def _poll_loop(url: str, pipe: Connection) -> None:
    seconds: list[float] = []
    address = urlsplit(url)
    # A minimal client, as its own time would count as the gateway's.
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    pipe.send("ready")
    while not pipe.poll(HEALTH_SECONDS):
        started_at = time.perf_counter()
        connection.request("GET", "/health")
        response = connection.getresponse()
        response.read()
        if response.status != 200:
            raise RuntimeError(f"/health answers {response.status}")
        seconds.append(time.perf_counter() - started_at)
    connection.close()
    pipe.send(seconds)


def median_ms(seconds: Sequence[float]) -> float:
    """In milliseconds."""
    return 1000 * statistics.median(seconds)


def percentile_99_ms(seconds: Sequence[float]) -> float:
    """In milliseconds."""
    return 1000 * sorted(seconds)[math.ceil(0.99 * len(seconds)) - 1]
