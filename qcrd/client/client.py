"""`qcrd.Client`: files, jobs, reports and models of a gateway, typed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from qcrd.client.download import download_model
from qcrd.client.follow import is_finished, poll_through_outages, stream_with_reconnect
from qcrd.client.gateway import DEFAULT_INTERVALS, DEFAULT_URL, GatewayClient, Intervals, JobEvent
from qcrd.errors import Conflict, Invalid
from qcrd.records.job import Report
from qcrd.records.rest import FileObject, FineTuningJob, JobPrediction, ModelObject

FILE_FIELDS = ("training_file", "validation_file", "test_file")


class Client:
    """A gateway's REST API with typed results; what goes wrong raises the errors of `qcrd.errors`.

    `url` defaults to QCRD_API_URL, else to the default port of this machine, and `key` to
    QCRD_API_KEY. Creating is retried under one idempotency key, following goes on through outages.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        intervals: Intervals = DEFAULT_INTERVALS,
    ) -> None:
        url = url or os.environ.get("QCRD_API_URL") or DEFAULT_URL
        if not url.startswith(("http://", "https://")):
            raise Invalid(f"url: {url!r} is not an address: it starts with http:// or https://")
        self._gateway = GatewayClient(url, key or os.environ.get("QCRD_API_KEY"), intervals)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._gateway.close()

    def upload(self, path: str | Path) -> FileObject:
        """Upload a file of questions; `Invalid` names the line that cannot be read, and why."""
        path = Path(path)
        if not path.is_file():
            raise Invalid(f"path: there is no file {path}")
        return FileObject.model_validate(self._gateway.upload_file(path))

    def create_job(self, spec: Mapping[str, Any]) -> FineTuningJob:
        """Create a job of its spec (docs/spec.md). A file given as a `pathlib.Path`, in place of
        an id, is uploaded first."""
        return FineTuningJob.model_validate(self._gateway.create_job(self._make_body(spec)))

    def estimate(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Estimate what `create_job` would cost, as the REST API tells it."""
        return self._gateway.estimate_job(self._make_body(spec))

    def get_job(self, job_id: str) -> FineTuningJob:
        """Fetch the job as it is now."""
        return FineTuningJob.model_validate(self._gateway.get_job(job_id))

    def list_jobs(self, limit: int = 100) -> list[FineTuningJob]:
        """List the newest `limit` jobs, newest first."""
        return [FineTuningJob.model_validate(job) for job in self._gateway.list_jobs(limit)]

    def cancel_job(self, job_id: str) -> FineTuningJob:
        """Cancel the job; what its teacher has answered is kept."""
        return FineTuningJob.model_validate(self._gateway.cancel_job(job_id))

    def pause_job(self, job_id: str) -> FineTuningJob:
        """Pause the job; its training saves a checkpoint first."""
        return FineTuningJob.model_validate(self._gateway.pause_job(job_id))

    def resume_job(self, job_id: str, budget: dict[str, Any] | None = None) -> FineTuningJob:
        """Resume a paused job; a `budget` replaces the one that it has."""
        return FineTuningJob.model_validate(self._gateway.resume_job(job_id, budget))

    def follow(self, job_id: str) -> Iterator[JobEvent]:
        """Yield every event of the job once, until it has finished."""
        return stream_with_reconnect(self._gateway, job_id)

    def wait(self, job_id: str) -> FineTuningJob:
        """Return the job once it has finished, however it did."""
        states = poll_through_outages(lambda: self._gateway.get_job(job_id), lambda _: None)
        while True:
            if (state := next(states)) is not None and is_finished(state):
                return FineTuningJob.model_validate(state)
            time.sleep(self._gateway.intervals.poll_job)

    def get_report(self, job_id: str) -> Report:
        """Fetch what a succeeded job has measured. `Conflict` says why there is none."""
        job = self.get_job(job_id)
        if job.report is None:
            told = f": {job.error.message}" if job.error else ""
            raise Conflict(f"job {job_id} has no report, it is {job.status}{told}")
        return job.report

    def list_predictions(
        self,
        job_id: str,
        *,
        method: str | None = None,
        right: bool | None = None,
        teacher_right: bool | None = None,
        label: str | None = None,
        limit: int = 1_000_000,
    ) -> list[JobPrediction]:
        """List what the job's students answered to its test questions; `label` is a gold label."""
        given = {"method": method, "right": right, "teacher_right": teacher_right, "label": label}
        wanted = {name: value for name, value in given.items() if value is not None}
        found = self._gateway.list_predictions(job_id, limit, wanted)
        return [JobPrediction.model_validate(each) for each in found]

    def list_models(self) -> list[ModelObject]:
        """List all published students, newest first."""
        return [ModelObject.model_validate(model) for model in self._gateway.list_models()]

    def download(self, model_id: str, to: str | Path) -> Path:
        """Download a student as a folder that `from_pretrained` loads; all of it or nothing."""
        return download_model(self._gateway, model_id, Path(to))

    def _make_body(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        body: dict[str, Any] = dict(spec)
        ids: dict[Path, str] = {}
        for name in FILE_FIELDS:
            if isinstance(path := body.get(name), Path):
                ids[path] = ids.get(path) or self.upload(path).id
                body[name] = ids[path]
        return body
