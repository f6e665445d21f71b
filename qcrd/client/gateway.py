"""A client of the gateway's REST API that raises the errors of `qcrd.errors`."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx2

from qcrd.errors import Conflict, Forbidden, Invalid, NotFound, QcrdError, Transient, Unauthorized
from qcrd.runtime.http.error_body import parse_error_body
from qcrd.runtime.retrying import call_with_retries

DEFAULT_URL = "http://127.0.0.1:8000"
"""Of `qcrd up` and of `docker compose up` where no other port was named."""
JOBS = "/v1/fine_tuning/jobs"
STUDIES = "/v1/studies"
RESPONSE_TIMEOUT_SECONDS = 60.0
UPLOAD_TIMEOUT_SECONDS = 600.0
"""The gateway validates every line of an upload before it responds."""
STREAM_IDLE_SECONDS = 45.0
"""The gateway sends a keep-alive comment every 15 s; after three missed ones the stream is dead."""
ERROR_BY_STATUS = {401: Unauthorized, 403: Forbidden, 404: NotFound, 409: Conflict}


@dataclass(frozen=True)
class Intervals:
    """Seconds between two requests."""

    poll_job: float = 1.0
    poll_study: float = 2.0
    reconnect: float = 2.0
    """Before a broken stream of events is continued."""
    create_retries: tuple[float, ...] = (0.5, 2.0, 4.0, 8.0)
    """Between attempts to create an object: a gateway restarts within them, and one that was killed
    holds the idempotency key for ten seconds."""


DEFAULT_INTERVALS = Intervals()


@dataclass(frozen=True)
class JobEvent:
    """An event of a job from a response; `created_at` in seconds since the epoch."""

    id: str
    message: str
    level: str = "info"
    type: str = "message"
    created_at: float = 0.0
    data: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_wire(cls, wire: dict[str, Any]) -> JobEvent:
        data = wire.get("data")
        return cls(
            id=str(wire["id"]),
            message=str(wire.get("message", "")),
            level=str(wire.get("level", "info")),
            type=str(wire.get("type", "message")),
            created_at=float(wire.get("created_at", 0)),
            data=data if isinstance(data, dict) else {},
        )


class GatewayClient:
    def __init__(self, url: str, key: str | None, intervals: Intervals) -> None:
        self.intervals = intervals
        self.url = url.rstrip("/")
        host = httpx2.URL(self.url).host
        self._http = httpx2.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(RESPONSE_TIMEOUT_SECONDS, connect=5.0),
            # A proxy does not lead to this machine.
            trust_env=host not in ("127.0.0.1", "localhost", "::1"),
        )

    def close(self) -> None:
        self._http.close()

    def upload_file(self, path: Path) -> dict[str, Any]:
        with path.open("rb") as file:
            return self._request(
                "POST",
                "/v1/files",
                files={"file": (path.name, file, "application/jsonl")},
                data={"purpose": "fine-tune"},
                timeout=httpx2.Timeout(UPLOAD_TIMEOUT_SECONDS, connect=5.0),
            )

    def create_job(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._create_with_retries(JOBS, body)

    def estimate_job(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._request("POST", f"{JOBS}/estimate", json=body)

    def get_job(self, job_id: str) -> dict[str, Any]:
        return self._request("GET", f"{JOBS}/{job_id}")

    def list_jobs(self, limit: int) -> list[dict[str, Any]]:
        return self._list_pages(JOBS, limit)

    def cancel_job(self, job_id: str) -> dict[str, Any]:
        return self._request("POST", f"{JOBS}/{job_id}/cancel")

    def pause_job(self, job_id: str) -> dict[str, Any]:
        return self._request("POST", f"{JOBS}/{job_id}/pause")

    def resume_job(
        self, job_id: str, budget: dict[str, Any] | None, *, release_uncertain: bool = False
    ) -> dict[str, Any]:
        body: dict[str, Any] = {"budget": budget} if budget else {}
        if release_uncertain:
            body["release_uncertain"] = True
        return self._request("POST", f"{JOBS}/{job_id}/resume", json=body or None)

    def delete_job(self, job_id: str) -> dict[str, Any]:
        return self._request("DELETE", f"{JOBS}/{job_id}")

    def list_events(self, job_id: str, limit: int) -> list[JobEvent]:
        """The newest `limit` events, oldest first."""
        events = self._list_pages(f"{JOBS}/{job_id}/events", limit)
        return [JobEvent.from_wire(event) for event in reversed(events)]

    def stream_events(self, job_id: str, after: str | None) -> Iterator[JobEvent]:
        """Stream the events after `after` until the job ends; `Transient` on a lost connection."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
        timeout = httpx2.Timeout(RESPONSE_TIMEOUT_SECONDS, connect=5.0, read=STREAM_IDLE_SECONDS)
        path = f"{JOBS}/{job_id}/events"
        with self._translate_errors():
            request = self._http.build_request(
                "GET", path, params={"stream": "true"}, headers=headers, timeout=timeout
            )
            response = self._http.send(request, stream=True)
            try:
                if not response.is_success:
                    response.read()
                    raise _error_from_response(response)
                yield from parse_sse(response.iter_lines())
            finally:
                response.close()

    def list_predictions(
        self, job_id: str, limit: int, wanted: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Those that have the `wanted` values, as the route's parameters name them."""
        return self._list_pages(f"{JOBS}/{job_id}/predictions", limit, wanted, page_size=1000)

    def create_study(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._create_with_retries(STUDIES, body)

    def get_study(self, study_id: str, *, table: bool = False) -> dict[str, Any]:
        """With `table` the gateway also reads every prediction."""
        return self._request("GET", f"{STUDIES}/{study_id}", params={"with_table": table})

    def list_studies(self, limit: int) -> list[dict[str, Any]]:
        return self._list_pages(STUDIES, limit)

    def cancel_study(self, study_id: str) -> dict[str, Any]:
        return self._request("POST", f"{STUDIES}/{study_id}/cancel")

    def resume_study(self, study_id: str) -> dict[str, Any]:
        return self._request("POST", f"{STUDIES}/{study_id}/resume")

    def get_study_table(self, study_id: str, format: str) -> str:
        """`format`: `json`, `markdown` or `svg`."""
        with self._translate_errors():
            path = f"{STUDIES}/{study_id}/table"
            response = self._http.get(path, params={"format": format})
        if not response.is_success:
            raise _error_from_response(response)
        return response.text

    def list_models(self) -> list[dict[str, Any]]:
        """All of them: without a limit the route has no pages, as OpenAI's has none."""
        models: list[dict[str, Any]] = self._request("GET", "/v1/models")["data"]
        return models

    def get_model(self, model_id: str) -> dict[str, Any]:
        return self._request("GET", f"/v1/models/{model_id}")

    def _create_with_retries(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Retry a lost response under one idempotency key, so that nothing is created twice."""
        key = {"Idempotency-Key": str(uuid.uuid4())}
        return call_with_retries(
            lambda: self._request("POST", path, json=body, headers=key),
            self.intervals.create_retries,
        )

    def _list_pages(
        self,
        path: str,
        limit: int,
        wanted: Mapping[str, Any] = MappingProxyType({}),
        page_size: int = 100,
    ) -> list[dict[str, Any]]:
        """Up to `limit` items of a paginated list, of those that are `wanted`."""
        items: list[dict[str, Any]] = []
        after: dict[str, str] = {}
        while len(items) < limit:
            page = self._request(
                "GET", path, params={**wanted, "limit": min(page_size, limit - len(items)), **after}
            )
            items += page["data"]
            if not page.get("has_more") or not page["data"]:
                break
            after = {"after": page["data"][-1]["id"]}
        return items

    def _request(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        with self._translate_errors():
            response = self._http.request(method, path, **options)
        if not response.is_success:
            raise _error_from_response(response)
        try:
            body = response.json()
        except ValueError as error:
            raise Transient(f"{self.url} is not a qcrd gateway: it does not speak JSON") from error
        if not isinstance(body, dict):
            raise Transient(f"{self.url} is not a qcrd gateway: unexpected answer to {path}")
        return body

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except httpx2.ConnectError as error:
            raise Transient(
                f"nothing answers at {self.url}: start the system with `qcrd up`, or name another "
                "gateway with --api or QCRD_API_URL"
            ) from error
        except httpx2.TransportError as error:
            raise Transient(
                f"lost the gateway {self.url}: {error or type(error).__name__}"
            ) from error


def parse_sse(lines: Iterator[str]) -> Iterator[JobEvent]:
    """Parse server-sent events; comments are skipped."""
    data: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            yield JobEvent.from_wire(json.loads("\n".join(data)))
            data = []


def _error_from_response(response: httpx2.Response) -> QcrdError:
    """Build the error from the gateway's error object, else from the status (a proxy's page)."""
    error, status = parse_error_body(response.content), response.status_code
    message = error.message or f"{response.request.url} answered {status}"
    if status == 401:
        message += ": set QCRD_API_KEY to a key of this gateway"
    if status >= 500 or status == 429 or error.code == "idempotency_in_progress":
        return Transient(message, param=error.param)
    return ERROR_BY_STATUS.get(status, Invalid)(message, param=error.param)
