"""A client of one teacher through `huggingface_hub`, the maintained client of the TGI protocol.

Its many errors are reduced to what the caller can do: slow down, wait, try again, or give up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
from huggingface_hub import set_async_client_factory

from qcrd.errors import QcrdError
from qcrd.runtime.keys import digest
from services.api.assembling.sampling_plan import SampleRequest, SamplingParams
from services.api.assembling.teacher.client_pool import ClientPool
from services.api.assembling.teacher.teacher_errors import (
    NoTokenizer,
    TeacherGenerationFailed,
    TeacherUnreachable,
    translate_teacher_errors,
)
from services.api.assembling.tokens.token_counts import TokenEstimator
from services.api.settings import TeacherConfig

PROBE_TIMEOUT_SECONDS = 5.0


@dataclass
class StreamProgress:
    """What is known of one request's cost while it runs, also when it breaks off."""

    streamed_tokens: int = 0
    is_free: bool = False
    """Whether nothing can have been generated: it was refused, or never left."""
    completion: Completion | None = None


@dataclass(frozen=True)
class TeacherInfo:
    """Which model answers, by its digest, and its limits in tokens where it states them."""

    fingerprint: str
    max_input_tokens: int | None = None
    max_total_tokens: int | None = None


@dataclass(frozen=True)
class Completion:
    """One generated text with what it cost, in tokens; `estimated` where they were not told."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    estimated: bool = False


def install_http_client_factory() -> None:
    """Give `huggingface_hub` our HTTP sessions, once per process: its own refuse every address
    under HF_HUB_OFFLINE, which sites without internet set."""
    set_async_client_factory(_make_http_client)


def _make_http_client() -> httpx2.AsyncClient:
    hooks = {"response": [_read_error_body]}
    return httpx2.AsyncClient(event_hooks=hooks, follow_redirects=True, timeout=None)


async def _read_error_body(response: httpx2.Response) -> None:
    """Read the body of a failed stream: it has the error, and the client does not read it."""
    if response.is_error:
        await response.aread()


class TeacherClient:
    """A client for concurrent requests; call `close` when the last one is done."""

    def __init__(self, name: str, teacher: TeacherConfig) -> None:
        self._name = name
        self._url = teacher.url.rstrip("/")
        key = teacher.api_key.get_secret_value() if teacher.api_key else None
        # Given even when there is no key: otherwise the client sends the machine's own hub token.
        self._headers: dict[str, Any] = {"authorization": f"Bearer {key}" if key else None}
        self._pool = ClientPool(self._url, self._headers)
        self._token_estimator = TokenEstimator(self.count_tokens)

    async def fetch_fingerprint(self) -> str:
        """Digest of the model that answers now. `TeacherUnreachable` when none does."""
        return (await self.fetch_info()).fingerprint

    async def fetch_info(self) -> TeacherInfo:
        """`TeacherUnreachable` when no model answers."""
        with translate_teacher_errors(self._name):
            async with self._open_session() as session:
                response = await session.get(f"{self._url}/info")
            if response.status_code in (408, 429) or response.status_code >= 500:
                raise TeacherUnreachable(
                    f"teacher {self._name}: /info responded {response.status_code}"
                )
            info = response.json() if response.is_success else None
        if not isinstance(info, dict) or "model_id" not in info:
            raise QcrdError(
                f"teacher {self._name}: GET /info responded {response.status_code} and no model; a "
                "server of the TGI protocol is needed at its address in the setting QCRD_TEACHERS",
                code="teacher_refused",
            )
        fingerprint = digest(str(info["model_id"]), str(info.get("model_sha")))
        if info.get("context_known") is False:
            return TeacherInfo(fingerprint)
        return TeacherInfo(fingerprint, info.get("max_input_tokens"), info.get("max_total_tokens"))

    async def check_upstream(self) -> None:
        """`TeacherUnreachable` while the server behind the teacher is away."""
        with translate_teacher_errors(self._name):
            async with self._open_session() as session:
                response = await session.get(f"{self._url}/health")
        if response.status_code >= 500:
            away = TeacherUnreachable(f"teacher {self._name}: its upstream does not answer")
            away.at_upstream = True
            raise away

    async def count_tokens(self, texts: Sequence[str], *, concurrency: int = 1) -> list[int]:
        """Of each text, as the teacher's own tokenizer counts them. Costs no generation.

        `NoTokenizer` where it has none. A text that is too large even for its route has as many
        tokens as bytes, which none exceeds.
        """
        limit = asyncio.Semaphore(concurrency)

        async def count(session: httpx2.AsyncClient, text: str) -> int:
            async with limit:
                reply = await session.post(f"{self._url}/tokenize", json={"inputs": text})
            if reply.status_code == 413:
                return len(text.encode())
            if reply.status_code in (404, 405, 501):
                raise NoTokenizer(f"teacher {self._name} has no /tokenize")
            if not reply.is_success:
                raise TeacherUnreachable(
                    f"teacher {self._name}: /tokenize answers {reply.status_code}"
                )
            return len(reply.json())

        with translate_teacher_errors(self._name):
            async with self._open_session() as session:
                return list(await asyncio.gather(*(count(session, text) for text in texts)))

    async def generate(
        self, request: SampleRequest, sampling: SamplingParams, progress: StreamProgress
    ) -> Completion:
        """`progress` tells what there was to pay for, whatever this raises."""
        try:
            await self._generate(request, sampling, progress)
        except (TeacherUnreachable, TeacherGenerationFailed) as error:
            if progress.completion is None:
                was_reached = not isinstance(error, TeacherUnreachable) or error.was_reached
                progress.is_free = not was_reached and not progress.streamed_tokens
                raise
        except QcrdError:
            progress.is_free = not progress.streamed_tokens
            raise
        if progress.completion is None:
            raise TeacherUnreachable(f"teacher {self._name} broke off in the middle of an answer")
        return progress.completion

    async def _generate(
        self, request: SampleRequest, sampling: SamplingParams, progress: StreamProgress
    ) -> None:
        greedy = sampling.temperature == 0
        with translate_teacher_errors(self._name):
            async with self._pool.acquire() as client:
                stream = await client.text_generation(
                    request.prompt,
                    details=True,
                    stream=True,
                    do_sample=not greedy,
                    temperature=None if greedy else sampling.temperature,
                    top_p=None if greedy else sampling.top_p,
                    seed=request.seed,
                    max_new_tokens=sampling.max_new_tokens,
                    stop=list(sampling.stop),
                    # The route that the client posts to returns the prompt unless this is False.
                    return_full_text=False,
                )
                async for event in stream:
                    progress.streamed_tokens += 1
                    if event.details is not None and event.generated_text is not None:
                        # Read on to the end: a stream left halfway keeps its connection.
                        progress.completion = await self._make_completion(request.prompt, event)

    async def _make_completion(self, prompt: str, last: Any) -> Completion:
        """Older TGI servers, and upstreams behind a teacher, leave counts out."""
        prompt_tokens, completion_tokens = last.details.input_length, last.details.generated_tokens
        is_estimated = None in (prompt_tokens, completion_tokens)
        if prompt_tokens is None:
            prompt_tokens = await self._token_estimator.count(prompt)
        if completion_tokens is None:
            completion_tokens = await self._token_estimator.count(last.generated_text)
        return Completion(
            text=last.generated_text,
            finish_reason=str(last.details.finish_reason),
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            estimated=is_estimated or bool(last.details.get("estimated")),
        )

    async def close(self) -> None:
        await self._pool.close()

    def _open_session(self) -> httpx2.AsyncClient:
        """For questions that cost nothing."""
        headers = {name: value for name, value in self._headers.items() if value}
        return httpx2.AsyncClient(timeout=PROBE_TIMEOUT_SECONDS, headers=headers)
