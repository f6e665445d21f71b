"""Asks the process that has sympy (`worker`), started when the first expression needs it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
from functools import lru_cache

MAX_SECONDS = 60.0
"""Of the clock, for one expression, with the start of the process on a busy machine."""


class MathProcess:
    """One process for all threads; a dead one is replaced when it is needed again."""

    def __init__(self, command: tuple[str, ...], max_seconds: float = MAX_SECONDS) -> None:
        self._command = command
        self._max_seconds = max_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = os.getpid()

    def spell(self, expression: str) -> str | None:
        """The canonical spelling; None where it has none, or none within the limits."""
        with self._lock:
            process = self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                process.stdin.write(json.dumps(expression) + "\n")
                process.stdin.flush()
                ready, _, _ = select.select([process.stdout], [], [], self._max_seconds)
                line = process.stdout.readline() if ready else ""
            except OSError:
                line = ""
            if not line:
                self._stop()
                return None
            spelling = json.loads(line)
            return spelling if isinstance(spelling, str) else None

    def _start(self) -> subprocess.Popen[str]:
        if self._owner != os.getpid():  # forked: two readers of one pipe would take turns
            self._process, self._owner = None, os.getpid()
        if self._process is None or self._process.poll() is not None:
            self._stop()
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        return self._process

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):  # what a dead process was not yet given
                    stream.close()
        self._process = None


@lru_cache(maxsize=1)
def get_process() -> MathProcess:
    return MathProcess((sys.executable, "-m", "qcrd.method.answer_reading.math.worker"))


@lru_cache(maxsize=4096)
def spell_expression(expression: str) -> str | None:
    """The canonical spelling of one LaTeX expression, asked for once."""
    return get_process().spell(expression)
