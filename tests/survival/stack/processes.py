"""Processes that are started again whenever they end, as supervisord and compose would."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[3]
RESTART_SECONDS = 0.3
"""Between the end of a process and its next start."""
STOP_SECONDS = 20.0


class Part:
    """One process of the system, of which there is at most one at a time."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        logs: Path,
        *,
        code: Path = ROOT,
    ) -> None:
        """`code`: the folder whose packages it runs."""
        self.name = name
        self.log = logs / f"{name}.log"
        self.starts = 0
        self._command = list(command)
        self._environment = dict(environment)
        self._code = code
        self._process: subprocess.Popen[bytes] | None = None
        self._unwanted = threading.Event()
        self._keeper: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """And keep it running until `stop`."""
        self._unwanted.clear()
        self._start()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def stop(self) -> None:
        if self._keeper is None:
            return
        with self._lock:
            self._unwanted.set()
            assert self._process is not None
            self._process.terminate()
        self._keeper.join(STOP_SECONDS)
        self._process.kill()
        self._keeper.join()

    def drain(self, grace_seconds: float) -> int | None:
        """SIGTERM, and SIGKILL `grace_seconds` later, as Kubernetes ends a pod; it does not come
        back by itself. Its exit code, None when it had to be killed."""
        with self._lock:
            self._unwanted.set()
            assert self._process is not None
            self._process.terminate()
        try:
            return self._process.wait(grace_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was never started"
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL; it comes back by itself."""
        with self._lock:
            assert self._process is not None
            self._process.kill()

    def family(self) -> list[psutil.Process]:
        """The process and every process below it."""
        process = psutil.Process(self.pid)
        return [process, *process.children(recursive=True)]

    def freeze(self) -> list[psutil.Process]:
        """SIGSTOP to the whole family, which `thaw` undoes."""
        family = self.family()
        freeze(family)
        return family

    def length(self) -> int:
        """Of what it has written to its log, in bytes."""
        return self.log.stat().st_size if self.log.exists() else 0

    def said(self, words: str, since: int = 0) -> bool:
        """Whether its log has `words` after the first `since` bytes."""
        return words.encode() in self.log.read_bytes()[since:]

    def count(self, words: str) -> int:
        return self.log.read_bytes().count(words.encode()) if self.log.exists() else 0

    def tail(self) -> str:
        return f"== {self.name}\n" + self.log.read_text(errors="replace")[-3000:]

    def _start(self) -> None:
        with self._lock:
            if not self._unwanted.is_set():
                with self.log.open("ab") as out:
                    self._process = subprocess.Popen(
                        self._command, env=self._environment, cwd=self._code, stdout=out, stderr=out
                    )
                self.starts += 1

    def _keep(self) -> None:
        while not self._unwanted.is_set():
            assert self._process is not None
            self._process.wait()
            self._unwanted.wait(RESTART_SECONDS)
            self._start()


def freeze(processes: Sequence[psutil.Process]) -> None:
    """SIGSTOP to each, which `thaw` undoes."""
    for process in processes:
        process.send_signal(signal.SIGSTOP)


def thaw(frozen: Sequence[psutil.Process]) -> None:
    for process in frozen:
        if process.is_running():
            process.send_signal(signal.SIGCONT)
