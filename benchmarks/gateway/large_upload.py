"""A large upload: the gateway's memory, speed and `/health`, and the store's own speed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from minio import Minio

from benchmarks.gateway import upload
from benchmarks.gateway.monitor import (
    MEGABYTE,
    median_ms,
    percentile_99_ms,
    poll_health,
    watch_process,
)
from benchmarks.gateway.system import BenchmarkSystem, GatewayProcess
from qcrd.runtime import keys
from qcrd.runtime.settings import StoreSettings

DIRECT_KEY = "straight"
READ_BYTES = 1 << 16


def measure(
    system: BenchmarkSystem, gateway: GatewayProcess, *, size: int, turn: int
) -> dict[str, float]:
    """One round with a file of `size` bytes; the order of gateway and store alternates."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "large.jsonl"
        with file.open("wb") as out:
            out.writelines(upload.generate_lines(size, f" {uuid4()}"))
        direct_seconds = _measure_direct(system.store_settings, file) if turn % 2 else None
        results = _measure_upload(gateway, file, size)
        direct_seconds = direct_seconds or _measure_direct(system.store_settings, file)
    for key in (*system.store.list(keys.UPLOADS), *system.store.list(keys.FILES), DIRECT_KEY):
        system.store.delete(key)
    rate = size / MEGABYTE / direct_seconds
    return {**results, "straight_mb_per_s": rate, "over_straight": results["mb_per_s"] / rate}


def _measure_upload(gateway: GatewayProcess, file: Path, size: int) -> dict[str, float]:
    with watch_process(gateway.pid) as usage, poll_health(gateway.url) as health:
        measured = upload.measure(gateway.url, gateway.pid, size=size, file=_read_chunks(file))
    return {
        "errors": int(measured.status != 200),
        "peak_rss_mb": max(usage.rss, measured.peak) / MEGABYTE,
        "before_rss_mb": measured.before / MEGABYTE,
        "mb_per_s": measured.rate / MEGABYTE,
        "core_share": usage.share,
        "health_p50_ms": median_ms(health.seconds),
        "health_p99_ms": percentile_99_ms(health.seconds),
    }


def _read_chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as data:
        while chunk := data.read(READ_BYTES):
            yield chunk


def _measure_direct(settings: StoreSettings, file: Path) -> float:
    """Seconds with the store's client in its default: parts of 5 MiB, three at once."""
    secret = settings.secret_key.get_secret_value()
    client = Minio(
        settings.endpoint, access_key=settings.access_key, secret_key=secret, secure=False
    )
    started_at = time.perf_counter()
    client.fput_object(settings.bucket, DIRECT_KEY, str(file))
    return time.perf_counter() - started_at
