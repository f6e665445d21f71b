"""A stopped worker is seen to be stopped, though its twin of the same name answers for both."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from qcrd.cli.stack.health import is_worker_up
from qcrd.runtime.settings import RedisSettings

WAIT_SECONDS = 120


@contextmanager
def worker(redis: RedisSettings, alive_file: Path) -> Iterator[subprocess.Popen[bytes]]:
    arguments = "celery -A services.trainer.worker worker -Q train -c 1 --pool=threads -n twin@qcrd"
    with alive_file.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments.split()],
            cwd=Path(__file__).parents[3],
            env={
                **os.environ,
                "QCRD_REDIS_URL": redis.url,
                "QCRD_ALIVE_FILE": str(alive_file),
                "QCRD_S3_ACCESS_KEY": "key",
                "QCRD_S3_SECRET_KEY": "secret",
            },
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(look: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_stopped_worker_makes_no_sign_of_life(
    redis_settings: RedisSettings, tmp_path: Path
) -> None:
    stopped, running = tmp_path / "stopped", tmp_path / "running"
    with worker(redis_settings, stopped) as process, worker(redis_settings, running):
        until(stopped.exists)
        until(running.exists)
        process.send_signal(signal.SIGSTOP)
        stopped.unlink()
        for _ in range(3):
            running.unlink()
            until(running.exists)
        assert not stopped.exists()
        until(lambda: is_worker_up(redis_settings.url, "twin@qcrd"))  # why no ping is asked
        process.send_signal(signal.SIGCONT)
        until(stopped.exists)
