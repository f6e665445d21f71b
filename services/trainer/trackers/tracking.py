"""A job's trackers: processes that are told what the event log is told, and are never waited for.

Each reads from a pipe. What does not fit into it, since the tracker hangs or is slow, is dropped;
at the end it has some seconds to send the rest, and then it is killed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from qcrd.records.job import Event, Job, Report
from qcrd.runtime.redis.event_log import EventLog
from qcrd.runtime.redis.wrapped_event_log import AppendOptions, WrappedEventLog
from services.trainer.trackers.base import TrackedRun

log = logging.getLogger(__name__)

MAX_LINE_BYTES = 4096
"""Of a pipe's line: one that is no longer is written as a whole or not at all (PIPE_BUF)."""
STOP_SECONDS = 5.0
NO_METRICS = frozenset({"step", "iteration"})


class TrackerProcess:
    """One tracker of a job, as a process."""

    def __init__(self, run: TrackedRun) -> None:
        self.kind = run.integration.type
        self.dropped = 0
        self._scratch = tempfile.TemporaryDirectory(prefix="qcrd-tracker-")
        self._outcome = Path(self._scratch.name) / "outcome.json"
        self._summary = Path(self._scratch.name) / "summary.json"
        described = Path(self._scratch.name) / "run.json"
        described.write_text(run.model_dump_json(), encoding="utf-8")
        files = map(str, (described, self._summary, self._outcome))
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "services.trainer.trackers"),
                *(*files, "--parent", str(os.getpid())),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        self._pipe = self._process.stdin.fileno()
        os.set_blocking(self._pipe, False)

    def send(self, told: Mapping[str, Any]) -> None:
        """Pass on what the pipe has room for."""
        line = json.dumps(told).encode() + b"\n"
        if len(line) > MAX_LINE_BYTES or not self._write(line):
            self.dropped += 1

    def _write(self, line: bytes) -> bool:
        try:
            return os.write(self._pipe, line) == len(line)
        except OSError:  # full, or nobody reads any more
            return False

    def close(self, summary: Mapping[str, float] | None) -> None:
        """Tell that nothing more comes, and the results of a job that has succeeded: by a file, as
        a pipe may have no room for what must not be lost."""
        with contextlib.suppress(OSError):
            if summary is not None:
                self._summary.write_text(json.dumps(summary), encoding="utf-8")
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()

    def finish(self, deadline: float) -> dict[str, Any]:
        """`url` or `error` of a closed one, by `deadline` of the monotonic clock; nothing of it is
        left then."""
        try:
            self._process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return {"error": "it did not finish in time, and was stopped"}
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, 9)
            self._process.wait()
        try:
            outcome: dict[str, Any] = json.loads(self._outcome.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {"error": f"its process ended with {self._process.returncode}"}
        finally:
            self._scratch.cleanup()
        return outcome


class TrackedEventLog(WrappedEventLog):
    """`events`, whose numbers are also passed on to trackers."""

    def __init__(self, events: EventLog, trackers: Sequence[TrackerProcess]) -> None:
        super().__init__(events)
        self._trackers = trackers
        self._step = 0

    def append(self, job_id: str, message: str, **options: Unpack[AppendOptions]) -> Event:
        event = super().append(job_id, message, **options)
        data = options.get("data") or {}
        self._step = int(data.get("step", self._step))
        if metrics := flatten_metrics(data):
            for tracker in self._trackers:
                tracker.send({"metrics": metrics, "step": self._step})
        return event


def flatten_metrics(data: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of an event by path, under the method that they are of."""
    method = data.get("method")
    prefix = f"{method}/" if isinstance(method, str) else ""
    return {
        f"{prefix}{name}": value for name, value in iter_numbers(data) if name not in NO_METRICS
    }


def iter_numbers(data: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    """Path and value of each finite number."""
    for name, value in data.items():
        if isinstance(value, Mapping):
            yield from iter_numbers(value, f"{path}{name}/")
        elif (
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        ):
            yield f"{path}{name}", float(value)


def flatten_parameters(job: Job) -> dict[str, Any]:
    """The spec's fields by dotted path; the webhook's address is private."""
    dumped = job.spec.model_dump(mode="json", exclude={"webhook", "integrations", "metadata"})
    return dict(_iter_fields(dumped, ""))


def _iter_fields(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _iter_fields(inner, f"{path}.{name}" if path else name)
    elif not isinstance(value, dict):
        yield path, json.dumps(value) if isinstance(value, list) else value


def summarize_report(report: Report) -> dict[str, float]:
    """Accuracies with their intervals, by row and set."""
    return {
        f"{split}/{row}/{name}": getattr(accuracy, name)
        for split, rows in (("test", report.test), ("validation", report.validation))
        for row, accuracy in rows.items()
        for name in ("accuracy", "low", "high")
    }


class Tracking:
    """The trackers of one job."""

    def __init__(self, job: Job, folder: Path, seconds: float, *, enabled: bool = True) -> None:
        parameters = flatten_parameters(job)
        self._seconds = seconds
        self.trackers = list[TrackerProcess]()
        for integration in job.spec.integrations if enabled else ():
            run = TrackedRun(
                job_id=job.id, integration=integration, parameters=parameters, folder=folder
            )
            try:
                self.trackers.append(TrackerProcess(run))
            except OSError as error:  # of processes, or of room for files
                log.warning("tracker %s was not started: %s", integration.type, error)

    def finish(self, events: EventLog, job_id: str, report: Report | None) -> None:
        """Tell the results, close the runs, and say in the job's events how that went. It takes
        `seconds` at most, and `STOP_SECONDS` of a job without a report: one that was told to stop
        has not long."""
        summary = None if report is None else summarize_report(report)
        for tracker in self.trackers:  # all of them before any is waited for
            tracker.close(summary)
        seconds = self._seconds if report is not None else min(STOP_SECONDS, self._seconds)
        deadline = time.monotonic() + seconds
        for tracker in self.trackers:
            outcome = tracker.finish(deadline)
            error = outcome.get("error")
            if error is not None:
                log.warning("tracker %s: %s", tracker.kind, error)
            if report is None:
                continue
            if error is not None:
                message = f"`integrations`: {tracker.kind} was not told all: {error}"
                events.append(job_id, message, level="warn")
                continue
            where = f": {outcome['url']}" if outcome.get("url") else ""
            lost = f"; {tracker.dropped} lines did not fit" if tracker.dropped else ""
            events.append(job_id, f"{tracker.kind} has this run{where}{lost}")
