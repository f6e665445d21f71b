"""The judges of answers at the discriminator, which keeps them."""

from __future__ import annotations

from collections.abc import Sequence

import httpx2

from qcrd.records.students.prompt_format import AnswerJudge
from qcrd.runtime.http.error_body import parse_error_body
from services.teacher.students.errors import JudgeUnavailable

TIMEOUT = httpx2.Timeout(60.0, connect=5.0)
"""A judge that is not in memory is read from the store first."""


class JudgeClient:
    """One client for all students, used by one event loop."""

    def __init__(self, url: str) -> None:
        self._client = httpx2.AsyncClient(base_url=url, timeout=TIMEOUT, trust_env=False)

    async def score(self, judge: AnswerJudge, question: str, outputs: Sequence[str]) -> list[float]:
        """In (0, 1), of each output to the question. Raises `JudgeUnavailable`."""
        body = {"version": judge.version, "pairs": [[question, output] for output in outputs]}
        try:
            response = await self._client.post(f"/v1/judges/{judge.id}/score", json=body)
        except httpx2.HTTPError as error:
            raise JudgeUnavailable(
                f"the discriminator, which keeps this student's judge, cannot be reached "
                f"({type(error).__name__}): try again, or use `vote`; check QCRD_DISCRIMINATOR_URL"
            ) from error
        if not response.is_success:
            reason = parse_error_body(response.content).message or f"status {response.status_code}"
            raise JudgeUnavailable(f"the discriminator did not score the outputs: {reason}")
        scores: list[float] = response.json()["scores"]
        return scores

    async def close(self) -> None:
        await self._client.aclose()
