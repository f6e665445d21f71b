"""How a study's progress looks: a bar per job in a terminal, lines everywhere else."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from qcrd.cli.output.progress import LINE_SECONDS, SIGN_OF_LIFE_SECONDS, TITLES
from qcrd.records.job import JobStatus, Stage


class StudyDisplay(Protocol):
    def seen(self, study: dict[str, Any]) -> None:
        """The study as it is now."""

    def trouble(self, text: str) -> None:
        """The gateway does not answer; said once per outage."""


@contextmanager
def study_display(console: Console) -> Iterator[StudyDisplay]:
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as progress:
        yield _Bars(progress)


class _Bars:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def trouble(self, text: str) -> None:
        self._progress.console.print(f"[yellow]{escape(text)}; still trying")

    def seen(self, study: dict[str, Any]) -> None:
        for job in study["jobs"]:
            if job["id"] not in self._bars:
                self._bars[job["id"]] = self._progress.add_task(name(job), total=100.0, note="")
            self._progress.update(
                self._bars[job["id"]], completed=job["percent"], note=escape(state(job))
            )


class _Lines:
    """For a log file: what changed, every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._spoke = float("-inf")
        self._said = ""

    def trouble(self, text: str) -> None:
        self._print(f"{text}; still trying")

    def seen(self, study: dict[str, Any]) -> None:
        text = summary(study["jobs"])
        silent = time.monotonic() - self._spoke
        if (text != self._said and silent >= LINE_SECONDS) or silent >= SIGN_OF_LIFE_SECONDS:
            self._said = text
            self._print(text)

    def _print(self, text: str) -> None:
        self._spoke = time.monotonic()
        seconds = int(self._spoke - self._began)
        line = f"[{seconds // 60:2d}:{seconds % 60:02d}] {text}"
        self._console.print(escape(line), soft_wrap=True)


def name(job: dict[str, Any]) -> str:
    return f"{job['method']}, seed {job['seed']}"


def state(job: dict[str, Any]) -> str:
    """Where a job of a study stands, in one line."""
    if job["status"] is None:
        return "missing"
    waiting = f", waiting: {job['waiting']}" if job["waiting"] else ""
    if job["status"] != JobStatus.RUNNING:
        return f"{job['status']}{waiting}"
    stage = TITLES[Stage(job["stage"])] if job["stage"] else "running"
    return f"{stage} {job['percent']:.0f} %{waiting}"


def summary(jobs: list[dict[str, Any]]) -> str:
    """How many jobs are in which state, and where those stand that are getting on."""
    counts = Counter(job["status"] or "missing" for job in jobs)
    parts = [f"{count} of {len(jobs)} {status}" for status, count in counts.items()]
    moving = [j for j in jobs if j["status"] == JobStatus.RUNNING and not j["waiting"]]
    return "; ".join([", ".join(parts), *(f"{name(job)}: {state(job)}" for job in moving)])
