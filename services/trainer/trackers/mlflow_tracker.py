"""MLflow by its REST API (2.0), which needs no package: its own ask for older ones than ours.

MLFLOW_TRACKING_URI is the server; MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and
MLFLOW_TRACKING_PASSWORD, say who writes, as its own client reads them.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx2

from services.trainer.trackers.base import Metrics, TrackedRun, TrackerFailed

JOB_TAG = "qcrd.job_id"
TIMEOUT_SECONDS = 20.0
MAX_PARAMETERS, MAX_PARAMETER_CHARS = 100, 6000
"""In one request, and of one value (MLflow's own limits)."""


class MlflowTracker:
    def __init__(self, run: TrackedRun) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI", "")
        if not uri.startswith(("http://", "https://")):
            raise TrackerFailed(
                "MLFLOW_TRACKING_URI of the trainer names no server: set it to one, such as "
                "http://127.0.0.1:5000 of `mlflow server`"
            )
        self._uri = uri.rstrip("/")
        self._http = httpx2.Client(
            base_url=f"{self._uri}/api/2.0/mlflow/", headers=_make_headers(), auth=_make_auth(),
            timeout=TIMEOUT_SECONDS,
        )  # fmt: skip
        self._experiment = self._find_experiment(run.integration.run.project)
        self._run_id = self._find_run(run)

    def log(self, metrics: Metrics, step: int) -> None:
        now = _now()
        entries = [
            {"key": name, "value": value, "timestamp": now, "step": step}
            for name, value in metrics.items()
            if math.isfinite(value)
        ]
        self._post("runs/log-batch", {"run_id": self._run_id, "metrics": entries})

    def log_summary(self, metrics: Metrics) -> None:
        self.log(metrics, 0)

    def finish(self, *, succeeded: bool) -> str | None:
        ended = {"status": "FINISHED" if succeeded else "FAILED", "end_time": _now()}
        self._post("runs/update", {"run_id": self._run_id, **ended})
        self._http.close()
        return f"{self._uri}/#/experiments/{self._experiment}/runs/{self._run_id}"

    def _find_experiment(self, name: str) -> str:
        found = self._http.get("experiments/get-by-name", params={"experiment_name": name})
        if found.status_code == 404:
            return str(self._post("experiments/create", {"name": name})["experiment_id"])
        return str(_read(found)["experiment"]["experiment_id"])

    def _find_run(self, run: TrackedRun) -> str:
        """The run of this job, from an earlier attempt where there was one."""
        query = {
            "experiment_ids": [self._experiment],
            "filter": f"tags.`{JOB_TAG}` = '{run.job_id}'",
            "max_results": 1,
        }
        if runs := self._post("runs/search", query).get("runs"):
            found = str(runs[0]["info"]["run_id"])
            self._post("runs/update", {"run_id": found, "status": "RUNNING"})
            return found
        tags = [{"key": JOB_TAG, "value": run.job_id}]
        tags += [{"key": f"qcrd.tag.{tag}", "value": "true"} for tag in run.integration.run.tags]
        made = self._post(
            "runs/create",
            {
                "experiment_id": self._experiment,
                "run_name": run.name,
                "start_time": _now(),
                "tags": tags,
            },
        )
        run_id = str(made["run"]["info"]["run_id"])
        parameters = [
            {"key": name, "value": str(value)[:MAX_PARAMETER_CHARS]}
            for name, value in run.parameters.items()
        ]
        for start in range(0, len(parameters), MAX_PARAMETERS):
            part: Sequence[Any] = parameters[start : start + MAX_PARAMETERS]
            self._post("runs/log-batch", {"run_id": run_id, "params": part})
        return run_id

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return _read(self._http.post(path, json=dict(body)))


def _read(response: httpx2.Response) -> dict[str, Any]:
    if not response.is_success:
        told = " ".join(response.text.split())[:200]
        raise TrackerFailed(f"MLflow answers {response.status_code} to {response.url.path}: {told}")
    body: dict[str, Any] = response.json()
    return body


def _make_headers() -> dict[str, str]:
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _make_auth() -> tuple[str, str] | None:
    name = os.environ.get("MLFLOW_TRACKING_USERNAME")
    return (name, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if name else None


def _now() -> int:
    return int(time.time() * 1000)
