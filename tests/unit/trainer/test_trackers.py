"""Trackers through their own libraries, offline; and ones that fail or hang."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from qcrd.errors import Invalid
from qcrd.records.base import parse_record
from qcrd.records.job import Job, JobStatus, Report
from qcrd.records.specs.spec import JobSpec
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from services.trainer.trackers.tracking import (
    TrackedEventLog,
    Tracking,
    flatten_metrics,
    summarize_report,
)
from tests import serving
from tests.unit.trainer.test_report import made

JOB = "ftjob-0123456789abcdef01234567"
STEP = {"method": "qcrd", "step": 7, "iteration": 1, "loss": 0.5, "judge": {"auc": 0.75}}
FOREVER = 240.0
HANGING_SECONDS = 20.0
"""Long enough for TensorBoard to be imported on a busy machine."""


def job(kind: str) -> Job:
    spec = {
        "model": "tiny",
        "training_file": "file-1",
        "integrations": [{"type": kind, kind: {"project": "things", "tags": ["a"]}}],
    }
    status = JobStatus.RUNNING
    return Job(id=JOB, spec=parse_record(JobSpec, spec), status=status, created_at=0.0)


def track(kind: str, folder: Path, report: Report | None, *, seconds: float = FOREVER) -> list[str]:
    """What the job's events say of its tracker after one step and its end."""
    log, tracking = MemoryEventLog(), Tracking(job(kind), folder, seconds)
    tracked = TrackedEventLog(log, tracking.trackers)
    tracked.append(JOB, "step 7", type="metrics", data=STEP)
    tracking.finish(log, JOB, report)
    return [event.message for event in log.read(JOB)][1:]


def test_tensorboard_reads_every_number_at_its_step(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    report = made()
    told = track("tensorboard", tmp_path, report)
    folder = tmp_path / "things" / JOB
    assert told == [f"tensorboard has this run: {folder}"]
    found = accumulator.EventAccumulator(str(folder))
    found.Reload()
    tensors = {
        tag: [(event.step, float(event.tensor_proto.float_val[0])) for event in found.Tensors(tag)]
        for tag in found.Tags()["tensors"]
    }
    assert tensors["qcrd/loss"] == [(7, 0.5)]
    assert tensors["qcrd/judge/auc"] == [(7, 0.75)]
    accuracy = report.test["qcrd"].accuracy
    assert tensors["test/qcrd/accuracy"] == [(0, pytest.approx(accuracy))]


def test_one_that_hangs_costs_the_other_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for first, and uses up all the time that there is for both."""
    pytest.importorskip("tensorboard")
    (tmp_path / "wandb.py").write_text("import time; time.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    followed = job("wandb")
    both = followed.spec.integrations + job("tensorboard").spec.integrations
    spec = followed.spec.model_copy(update={"integrations": both})
    log = MemoryEventLog()
    tracking = Tracking(followed.model_copy(update={"spec": spec}), tmp_path, HANGING_SECONDS)
    tracking.finish(log, JOB, made())
    told = {event.message for event in log.read(JOB)}
    assert f"tensorboard has this run: {tmp_path / 'things' / JOB}" in told
    assert any("wandb was not told all: it did not finish in time" in message for message in told)


def test_the_results_are_told_however_full_the_pipe_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that takes seconds to begin, and more numbers than a pipe has room for."""
    (tmp_path / "trackio.py").write_text(
        "import json, os, time\n"
        "time.sleep(3)\n"
        "class Run:\n"
        "    def __getattr__(self, name):\n"
        "        return lambda *a, **k: open(os.environ['TOLD'], 'a').write(json.dumps([a, k], "
        "default=str) + chr(10))\n"
        "run = Run()\n"
        "init = lambda *a, **k: run\n"
        "log = run.log\n"
        "finish = run.finish\n"
    )
    monkeypatch.setenv("TOLD", str(tmp_path / "told"))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    log, tracking = MemoryEventLog(), Tracking(job("trackio"), tmp_path, FOREVER)
    tracked = TrackedEventLog(log, tracking.trackers)
    for step in range(3000):
        tracked.append(JOB, "step", type="metrics", data={**STEP, "step": step})
    assert tracking.trackers[0].dropped
    tracking.finish(log, JOB, made())
    assert "test/qcrd/accuracy" in (tmp_path / "told").read_text()
    assert "lines did not fit" in log.read(JOB, limit=4000)[-1].message


def test_wandb_keeps_an_offline_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    assert track("wandb", tmp_path, made()) == ["wandb has this run"]
    [kept] = (tmp_path / "wandb").glob(f"offline-run-*-{JOB}/*.wandb")
    content = kept.read_bytes()
    for text in (b"qcrd/loss", b"test/qcrd/accuracy", b"settings.teacher"):
        assert text in content


def test_trackio_keeps_a_local_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    assert track("trackio", tmp_path, made()) == ["trackio has this run"]
    with sqlite3.connect(tmp_path / "things.db") as database:
        rows = database.execute("SELECT metrics FROM metrics WHERE run_name = ?", [JOB]).fetchall()
    logged: dict[str, Any] = {}
    for (metrics,) in rows:
        logged |= json.loads(metrics)
    assert (logged["qcrd/loss"], logged["optimizer_step"]) == (0.5, 7)
    assert "test/qcrd/accuracy" in logged


class FakeMlflow:
    """MLflow's REST API 2.0, as much as a run needs of it, as its documentation has it."""

    def __init__(self) -> None:
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict[str, Any]] = {}

    def app(self) -> Starlette:
        names = {
            "experiments/create": self._create_experiment,
            "runs/create": self._create_run,
            "runs/search": self._search,
            "runs/log-batch": self._log,
            "runs/update": self._update,
        }
        root = "/api/2.0/mlflow/"
        found = Route(f"{root}experiments/get-by-name", self._get_experiment)
        return Starlette(
            routes=[found, *(Route(root + n, r, methods=["POST"]) for n, r in names.items())]
        )

    async def _get_experiment(self, request: Request) -> Response:
        name = request.query_params["experiment_name"]
        if name not in self.experiments:
            return JSONResponse({"error_code": "RESOURCE_DOES_NOT_EXIST"}, 404)
        return JSONResponse({"experiment": {"experiment_id": self.experiments[name]}})

    async def _create_experiment(self, request: Request) -> Response:
        name = (await request.json())["name"]
        self.experiments[name] = "3"
        return JSONResponse({"experiment_id": "3"})

    async def _create_run(self, request: Request) -> Response:
        asked = await request.json()
        run_id = f"run{len(self.runs)}"
        self.runs[run_id] = {**asked, "metrics": [], "params": [], "statuses": []}
        return JSONResponse({"run": {"info": {"run_id": run_id}}})

    async def _search(self, request: Request) -> Response:
        wanted = (await request.json())["filter"].split("'")[1]
        found = [
            {"info": {"run_id": run_id}}
            for run_id, run in self.runs.items()
            if {"key": "qcrd.job_id", "value": wanted} in run["tags"]
        ]
        return JSONResponse({"runs": found} if found else {})

    async def _log(self, request: Request) -> Response:
        asked = await request.json()
        if len(asked.get("params", ())) > 100:
            return JSONResponse({"message": "too many params"}, 400)
        for kind in ("metrics", "params"):
            self.runs[asked["run_id"]][kind] += asked.get(kind, [])
        return JSONResponse({})

    async def _update(self, request: Request) -> Response:
        asked = await request.json()
        self.runs[asked["run_id"]]["statuses"].append(asked["status"])
        return JSONResponse({})


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMlflow]:
    fake = FakeMlflow()
    with serving.app(fake.app()) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        yield fake


def test_mlflow_has_one_run_of_a_job_that_was_resumed(mlflow: FakeMlflow, tmp_path: Path) -> None:
    assert track("mlflow", tmp_path, None) == []
    [told] = track("mlflow", tmp_path, made())
    assert told.startswith("mlflow has this run: http")
    assert told.endswith("/experiments/3/runs/run0")
    [run] = mlflow.runs.values()
    assert run["statuses"] == ["FAILED", "RUNNING", "FINISHED"]
    steps = [(m["value"], m["step"]) for m in run["metrics"] if m["key"] == "qcrd/loss"]
    assert steps == [(0.5, 7), (0.5, 7)]
    assert {"key": "settings.teacher", "value": "default"} in run["params"]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library called `wandb` in the way of the real one, as the tracker's process finds it."""
    folder = tmp_path / "library"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *filter(None, sys.path)]))
    return folder / "wandb.py"


@pytest.mark.parametrize(
    ("source", "seconds", "told"),
    [
        ("def init(**_): raise RuntimeError('no network')", FOREVER, "RuntimeError: no network"),
        ("raise ModuleNotFoundError(name='wandb')", FOREVER, "pip install 'qcrd[wandb]'"),
        ("import os; os._exit(3)", FOREVER, "its process ended with 3"),
        ("import time; time.sleep(1000)", 0.5, "it did not finish in time, and was stopped"),
    ],
)
def test_one_that_fails_or_hangs_is_a_warning_and_harms_nothing(
    library: Path, tmp_path: Path, source: str, seconds: float, told: str
) -> None:
    library.write_text(source)
    [warning] = track("wandb", tmp_path, made(), seconds=seconds)
    assert warning.startswith("`integrations`: wandb was not told all: ")
    assert told in warning


def test_a_tracker_that_does_not_read_stops_nobody(library: Path, tmp_path: Path) -> None:
    """3,000 lines of 90 bytes are more than a pipe of 64 KiB holds."""
    library.write_text("import time; time.sleep(1000)")
    log, tracking = MemoryEventLog(), Tracking(job("wandb"), tmp_path, 0.1)
    tracked = TrackedEventLog(log, tracking.trackers)
    for step in range(3_000):
        tracked.append(JOB, "step", data={**STEP, "step": step})
    assert tracking.trackers[0].dropped > 0
    tracking.finish(log, JOB, None)


def test_numbers_of_an_event_and_of_a_report() -> None:
    assert flatten_metrics(STEP) == {"qcrd/loss": 0.5, "qcrd/judge/auc": 0.75}
    assert flatten_metrics({"text": "x", "flag": True, "nan": float("nan")}) == {}
    report = made()
    assert summarize_report(report)["test/qcrd/low"] == report.test["qcrd"].low


def test_fields_of_another_tracker_are_refused() -> None:
    spec = {"model": "tiny", "training_file": "file-1"}
    for wrong in ({"type": "wandb", "mlflow": {}}, {"type": "comet"}, {"type": "wandb", "x": 1}):
        with pytest.raises(Invalid, match="integrations"):
            parse_record(JobSpec, {**spec, "integrations": [wrong]})


def test_who_is_told_changes_nothing_that_is_computed() -> None:
    spec = job("wandb").spec
    assert spec.dump_identity() == spec.model_copy(update={"integrations": ()}).dump_identity()
