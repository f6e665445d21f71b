"""The worker of `queue_worker` as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from qcrd.runtime.settings import RedisSettings

COMMAND = "celery -A tests.contract.runtime.queue_worker worker -Q train -c 1 --pool=threads"


def start_queue_worker(redis: RedisSettings, seen: Path, log: Path) -> subprocess.Popen[bytes]:
    """It writes the messages that it gets to `seen`."""
    environment = {**os.environ, "QCRD_REDIS_URL": redis.url, "SEEN_FILE": str(seen)}
    with log.open("wb") as out:
        return subprocess.Popen(
            [sys.executable, "-m", *COMMAND.split()],
            cwd=Path(__file__).parents[3],
            env=environment,
            stdout=out,
            stderr=out,
        )
