"""Display a job's progress: bars in a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from qcrd.client.follow import JobDisplay
from qcrd.client.gateway import JobEvent
from qcrd.records.job import JobStatus, Stage

STAGE_TITLES = {
    Stage.ASSEMBLING: "rationales",
    Stage.TRAINING: "training",
    Stage.EVALUATING: "evaluating",
    Stage.PUBLISHING: "publishing",
}
LINE_INTERVAL_SECONDS = 3.0
"""Least time between two progress lines."""
KEEPALIVE_SECONDS = 10.0
"""Longest time without a line, even if the progress is unchanged."""
LEVEL_STYLES = {"warn": "yellow", "error": "red"}


@contextmanager
def open_display(console: Console) -> Iterator[JobDisplay]:
    if console.is_terminal:
        with _make_progress(console) as progress:
            yield ProgressBars(progress)
    else:
        yield ProgressLines(console)


def _make_progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="yellow"),
        console=console,
    )


def _style_event(event: JobEvent) -> str:
    style = LEVEL_STYLES.get(event.level)
    text = escape(event.message)
    return f"[{style}]{text}[/]" if style else text


class ProgressBars:
    """A bar per stage, with the events above; training and evaluating alternate where a job trains
    several students."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stage: Stage | None = None
        self._bar: TaskID | None = None

    def show_event(self, event: JobEvent) -> None:
        if event.type == "message":
            self._progress.console.print(_style_event(event))

    def show_outage(self, text: str) -> None:
        self._progress.console.print(f"[yellow]{escape(text)}; retrying")

    def show_job(self, job: dict[str, Any]) -> None:
        over = JobStatus(job["status"]) is JobStatus.SUCCEEDED
        stage = Stage(job["stage"]) if job["stage"] else None
        if stage is not None and stage is not self._stage:
            self._finish()
            self._stage = stage
            self._bar = self._progress.add_task(STAGE_TITLES[stage], total=None, note="")
        if self._bar is not None:
            self._update(self._bar, job)
        if over:
            self._finish()

    def _update(self, bar: TaskID, job: dict[str, Any]) -> None:
        now = job["progress"]
        total = now["total_steps"] or 100
        done = now["step"] if now["total_steps"] else now["percent"]
        note = describe_wait(job)
        self._progress.update(bar, total=total, completed=done, note=escape(note))

    def _finish(self) -> None:
        if (bar := self._bar) is None:
            return
        total = self._progress.tasks[self._progress.task_ids.index(bar)].total or 1
        self._progress.update(bar, total=total, completed=total, note="")
        self._progress.stop_task(bar)


class ProgressLines:
    """For a log file: every event, and the job's state every few seconds."""

    def __init__(self, console: Console) -> None:
        self._lines = TimedLines(console, printed_at=time.monotonic())

    def show_event(self, event: JobEvent) -> None:
        if event.type == "message":
            self._lines.print(_style_event(event))

    def show_outage(self, text: str) -> None:
        self._lines.print(f"{escape(text)}; retrying")

    def show_job(self, job: dict[str, Any]) -> None:
        self._lines.print_state(format_state(job), stage=job["stage"] or "")


class TimedLines:
    """Lines that begin with the time since the first; `printed_at` is when the last was printed."""

    def __init__(self, console: Console, printed_at: float) -> None:
        self._console = console
        self._started_at = time.monotonic()
        self._printed_at = printed_at
        self._last_state = ""
        self._last_stage = ""

    def print_state(self, state: str, *, stage: str = "") -> None:
        """On changes, every few seconds; at once when the `stage` is another."""
        is_new_stage, self._last_stage = stage != self._last_stage, stage
        idle_seconds = time.monotonic() - self._printed_at
        is_due = state != self._last_state and idle_seconds >= LINE_INTERVAL_SECONDS
        if is_new_stage or is_due or idle_seconds >= KEEPALIVE_SECONDS:
            self._last_state = state
            self.print(escape(state))

    def print(self, markup: str) -> None:
        self._printed_at = time.monotonic()
        seconds = int(self._printed_at - self._started_at)
        clock = escape(f"[{seconds // 60:2d}:{seconds % 60:02d}] ")
        self._console.print(clock + markup, soft_wrap=True)


def describe_wait(job: dict[str, Any]) -> str:
    """What the job waits for; empty while it is worked on. Between two stages, and behind other
    jobs, it has a place in a queue of the stage's."""
    if job.get("waiting"):
        return f"waiting: {job['waiting']}"
    if job["status"] != JobStatus.RUNNING or not job.get("queue_position") or not job["stage"]:
        return ""
    worker = "a worker" if job["stage"] == Stage.ASSEMBLING else "a trainer"
    return f"waiting for {worker}, number {job['queue_position']} in the queue"


def format_state(job: dict[str, Any]) -> str:
    """The job's state in one line."""
    stage = STAGE_TITLES[Stage(job["stage"])] if job["stage"] else job["status"]
    if job["status"] != JobStatus.RUNNING:
        stage = job["status"]
    now, wait = job["progress"], describe_wait(job)
    parts = [stage]
    # Nothing of a stage is done while it waits for its first worker, and measuring has no percent.
    counts = job["stage"] != Stage.EVALUATING or now["percent"] > 0
    has_begun = counts and (not job.get("queue_position") or now["percent"] > 0)
    if job["status"] == JobStatus.RUNNING and has_begun:
        parts.append(f"{now['percent']:.0f} %")
        if total := now["total_steps"]:
            # Of a job that trains several students the percentage is of them all.
            part = abs(now["percent"] - 100 * now["step"] / total)
            is_whole = job["stage"] != Stage.TRAINING or part < 2
            parts.append(f"{now['step']}/{total}{'' if is_whole else ' of this student'}")
    if wait:
        parts.append(wait)
    return "  ".join(parts)
