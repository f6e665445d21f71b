"""The discriminator service as training's `JudgeBackend`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import httpx2

from qcrd.errors import Conflict, Diverged, LeaseLost, QcrdError, Transient
from qcrd.method.judge.training_pairs import QuestionRationale, TrainingPair
from qcrd.records.job import JudgeHistograms
from qcrd.records.judge import LEASE_TOKEN_HEADER, CreateJudgeRequest
from qcrd.records.specs.training_spec import JudgeSpec
from qcrd.runtime.http.error_body import parse_error_body
from qcrd.runtime.retrying import call_with_retries

PAIRS_PER_CALL = 1024
TIMEOUT = httpx2.Timeout(600.0, connect=5.0)
"""A pretraining call on a CPU takes minutes; a connection does not."""
RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Delays between attempts while the service restarts. Every call is idempotent."""


class RemoteJudge:
    """The judge `judge_id` at `url`. `flops` sums what the service spent on its calls;
    `histograms` are those of its last training call."""

    def __init__(
        self,
        url: str,
        judge_id: str,
        *,
        base: str,
        spec: JudgeSpec,
        seed: int,
        check: Callable[[], None],
        token: int | None = None,
        client: httpx2.Client | None = None,
    ) -> None:
        """`check` raises when the job is to stop; it is asked before every call. `token` is that of
        the job's lease: the service refuses it (`LeaseLost`) once a newer one has asked."""
        self._client = client or httpx2.Client(base_url=url, timeout=TIMEOUT)
        self._headers = {} if token is None else {LEASE_TOKEN_HEADER: str(token)}
        self._path = f"/v1/judges/{judge_id}"
        self._check = check
        self.flops = 0.0
        self.histograms: JudgeHistograms | None = None
        self.oldest_version = 0
        self._version: int | None = None
        """The version to continue with. A restarted service has the newest one it saved, which is
        too new when training itself resumed from an earlier checkpoint."""
        request = CreateJudgeRequest(base=base, spec=spec, seed=seed)
        self._request("PUT", "", request.model_dump(mode="json"))

    def pretrain(self, training_pairs: Sequence[TrainingPair]) -> dict[str, float]:
        return self._post_training(
            "/pretrain", {"contrasts": _serialize_training_pairs(training_pairs)}
        )

    def update(
        self, iteration: int, training_pairs: Sequence[TrainingPair], *, weight: float
    ) -> dict[str, float]:
        body = {
            "iteration": iteration,
            "contrasts": _serialize_training_pairs(training_pairs),
            "weight": weight,
            "keep": self.oldest_version,
        }
        return self._post_training("/update", body)

    def score(self, pairs: Sequence[QuestionRationale]) -> list[float]:
        scores: list[float] = []
        for start in range(0, len(pairs), PAIRS_PER_CALL):
            batch = [list(pair) for pair in pairs[start : start + PAIRS_PER_CALL]]
            body = {"version": self._version, "pairs": batch}
            result = self._request("POST", "/score", body)
            self.flops += result["flops"]
            scores += result["scores"]
        return scores

    def _post_training(self, path: str, body: dict[str, Any]) -> dict[str, float]:
        result = self._request("POST", path, body)
        self.flops += result["flops"]
        self._version = result["version"]
        histograms = result.get("histograms")
        self.histograms = JudgeHistograms.model_validate(histograms) if histograms else None
        health: dict[str, float] = result["health"]
        return health

    def _request(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return call_with_retries(lambda: self._request_once(method, path, body), RETRY_SECONDS)

    def _request_once(self, method: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self._check()
        try:
            response = self._client.request(
                method, self._path + path, json=body, headers=self._headers
            )
        except httpx2.HTTPError as error:
            raise Transient(f"the discriminator is unreachable: {error}") from error
        if response.is_success:
            result: dict[str, Any] = response.json()
            return result
        raise _make_response_error(response)


def _make_response_error(response: httpx2.Response) -> QcrdError:
    error = parse_error_body(response.content)
    message = f"discriminator: {error.message or f'status {response.status_code}'}"
    for final in (Diverged, LeaseLost):
        if error.code == final.default_code:
            return final(message, param=error.param)
    if response.status_code >= 500:
        return Transient(message)
    return Conflict(message, param=error.param, code="discriminator_refused")


def _serialize_training_pairs(training_pairs: Sequence[TrainingPair]) -> list[dict[str, Any]]:
    return [
        {
            "question": c.question,
            "positives": list(c.positives),
            "negatives": list(c.negatives),
            "sources": list(c.sources),
        }
        for c in training_pairs
    ]
