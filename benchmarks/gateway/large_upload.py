"""A large upload: the gateway's memory and speed, `/health` meanwhile, and the store without it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

from minio import Minio

from benchmarks.gateway import upload
from benchmarks.gateway.monitor import MEGABYTE, asking_health, p50, p99, watched
from benchmarks.gateway.system import Gateway, System
from qcrd.runtime import keys
from qcrd.runtime.settings import StoreSettings

STRAIGHT = "straight"
READ_BYTES = 1 << 16


def measure(system: System, gateway: Gateway, *, size: int, turn: int) -> dict[str, float]:
    """One round with a file of `size` bytes; which of the two ways goes first alternates."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "large.jsonl"
        with file.open("wb") as out:
            out.writelines(upload.questions(size, f" {uuid4()}"))
        straight = _straight(system.store_settings, file) if turn % 2 else None
        found = _uploaded(gateway, file, size)
        straight = straight or _straight(system.store_settings, file)
    for key in (*system.store.list(keys.UPLOADS), *system.store.list(keys.FILES), STRAIGHT):
        system.store.delete(key)
    rate = size / MEGABYTE / straight
    return {**found, "straight_mb_per_s": rate, "over_straight": found["mb_per_s"] / rate}


def _uploaded(gateway: Gateway, file: Path, size: int) -> dict[str, float]:
    with watched(gateway.pid) as seen, asking_health(gateway.url) as asked:
        done = upload.measure(gateway.url, gateway.pid, size=size, file=_pieces(file))
    return {
        "errors": int(done.status != 200),
        "peak_rss_mb": max(seen.rss, done.peak) / MEGABYTE,
        "before_rss_mb": done.before / MEGABYTE,
        "mb_per_s": done.rate / MEGABYTE,
        "core_share": seen.share,
        "health_p50_ms": p50(asked.seconds),
        "health_p99_ms": p99(asked.seconds),
    }


def _pieces(file: Path) -> Iterator[bytes]:
    with file.open("rb") as data:
        while piece := data.read(READ_BYTES):
            yield piece


def _straight(settings: StoreSettings, file: Path) -> float:
    """Seconds of the store's client as it comes: parts of 5 MiB, three at once."""
    secret = settings.secret_key.get_secret_value()
    client = Minio(
        settings.endpoint, access_key=settings.access_key, secret_key=secret, secure=False
    )
    began = time.perf_counter()
    client.fput_object(settings.bucket, STRAIGHT, str(file))
    return time.perf_counter() - began
