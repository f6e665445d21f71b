"""Display a study's progress: a bar per job in a terminal, lines elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn

from qcrd.cli.output.progress import STAGE_TITLES, TimedLines
from qcrd.records.job import JobStatus, Stage


class StudyDisplay(Protocol):
    def show_study(self, study: dict[str, Any]) -> None:
        """Show the study's current state."""

    def show_outage(self, text: str) -> None:
        """Show that the gateway is unreachable; called once per outage."""


@contextmanager
def open_study_display(console: Console) -> Iterator[StudyDisplay]:
    if not console.is_terminal:
        yield _StudyLines(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as progress:
        yield _StudyBars(progress)


class _StudyBars:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def show_outage(self, text: str) -> None:
        self._progress.console.print(f"[yellow]{escape(text)}; retrying")

    def show_study(self, study: dict[str, Any]) -> None:
        for job in study["jobs"]:
            if job["id"] not in self._bars:
                self._bars[job["id"]] = self._progress.add_task(
                    format_job_name(job), total=100.0, note=""
                )
            self._progress.update(
                self._bars[job["id"]], completed=job["percent"], note=escape(format_job_state(job))
            )


class _StudyLines:
    """For a log file: a line on changes, every few seconds."""

    def __init__(self, console: Console) -> None:
        self._lines = TimedLines(console, printed_at=float("-inf"))

    def show_outage(self, text: str) -> None:
        self._lines.print(f"{escape(text)}; retrying")

    def show_study(self, study: dict[str, Any]) -> None:
        self._lines.print_state(format_summary(study["jobs"]))


def format_job_name(job: dict[str, Any]) -> str:
    trial = "" if job.get("trial") is None else f", trial {job['trial']}"
    return f"{job['method']}, seed {job['seed']}{trial}"


def format_job_state(job: dict[str, Any]) -> str:
    """The state of a study's job in one line."""
    if job["status"] is None:
        return "missing"
    waiting = f", waiting: {job['waiting']}" if job["waiting"] else ""
    if job["status"] != JobStatus.RUNNING:
        return f"{job['status']}{waiting}"
    stage = STAGE_TITLES[Stage(job["stage"])] if job["stage"] else "running"
    return f"{stage} {job['percent']:.0f} %{waiting}"


def format_summary(jobs: list[dict[str, Any]]) -> str:
    """The number of jobs in each state, and the state of each running job."""
    counts = Counter(job["status"] or "missing" for job in jobs)
    parts = [f"{count} of {len(jobs)} {status}" for status, count in counts.items()]
    running = [j for j in jobs if j["status"] == JobStatus.RUNNING and not j["waiting"]]
    return "; ".join(
        [", ".join(parts), *(f"{format_job_name(job)}: {format_job_state(job)}" for job in running)]
    )
