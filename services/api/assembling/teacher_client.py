"""A client of one teacher through `huggingface_hub`, the maintained client of the TGI protocol.

Its many errors are reduced to what the caller can do: slow down, wait, try again, or give up.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
from huggingface_hub import AsyncInferenceClient, set_async_client_factory
from huggingface_hub.errors import (
    HfHubHTTPError,
    InferenceTimeoutError,
    OverloadedError,
    TextGenerationError,
    ValidationError,
)

from qcrd.errors import Invalid, QcrdError, Transient
from qcrd.runtime.http import retry_after
from qcrd.runtime.keys import digest
from services.api.assembling.sampling_plan import SampleRequest, SamplingParams
from services.api.settings import TeacherConfig

READ_TIMEOUT_SECONDS = 120.0
"""Seconds of silence after which a server is gone: TGI writes a comment every 15 s."""
PROBE_TIMEOUT_SECONDS = 5.0
MAX_REQUESTS_PER_CLIENT = 256
"""Requests after which a client is replaced: it keeps every streamed response until closed."""


class TeacherOverloaded(Transient):
    """The teacher is at capacity (429): retry the request, with fewer at once."""


class TeacherUnreachable(Transient):
    """The teacher does not respond, or broke off in the middle of an output."""

    has_partial_output = False
    """Whether part of the output had arrived, which has to be paid for."""


class TeacherGenerationFailed(Transient):
    """The teacher took the request and its engine failed on it (424)."""

    has_partial_output = False


@dataclass(frozen=True)
class Completion:
    """One generated text with what it cost, in tokens."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


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


@dataclass
class _PooledClient:
    client: AsyncInferenceClient
    request_count: int = 0
    in_flight: int = 0


class TeacherClient:
    """A client for concurrent requests; call `close` when the last one is done."""

    def __init__(self, name: str, teacher: TeacherConfig) -> None:
        self._name = name
        self._url = teacher.url.rstrip("/")
        key = teacher.api_key.get_secret_value() if teacher.api_key else None
        # Given even when there is no key: otherwise the client sends the machine's own hub token.
        self._headers: dict[str, Any] = {"authorization": f"Bearer {key}" if key else None}
        self._pooled: _PooledClient | None = None

    async def fetch_fingerprint(self) -> str:
        """Digest of the model that is served now. `TeacherUnreachable` when none is."""
        with self._translate_errors():
            async with httpx2.AsyncClient(timeout=PROBE_TIMEOUT_SECONDS) as session:
                headers = {name: value for name, value in self._headers.items() if value}
                response = await session.get(f"{self._url}/info", headers=headers)
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
        return digest(str(info["model_id"]), str(info.get("model_sha")))

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text by the teacher's own tokenizer. Costs no generation."""
        counts = []
        with self._translate_errors():
            async with httpx2.AsyncClient(timeout=PROBE_TIMEOUT_SECONDS) as session:
                headers = {name: value for name, value in self._headers.items() if value}
                for text in texts:
                    response = await session.post(
                        f"{self._url}/tokenize", headers=headers, json={"inputs": text}
                    )
                    if not response.is_success:
                        raise TeacherUnreachable(
                            f"teacher {self._name}: /tokenize responded {response.status_code}"
                        )
                    counts.append(len(response.json()))
        return counts

    async def generate(self, request: SampleRequest, sampling: SamplingParams) -> Completion:
        events: list[Any] = []
        try:
            return await self._generate(request, sampling, events)
        except (TeacherUnreachable, TeacherGenerationFailed) as error:
            error.has_partial_output = bool(events)
            raise

    async def _generate(
        self, request: SampleRequest, sampling: SamplingParams, events: list[Any]
    ) -> Completion:
        """Generate one output; `begun` gets an item when its first token arrives."""
        greedy = sampling.temperature == 0
        completion: Completion | None = None
        with self._translate_errors():
            async with self._acquire_client() as client:
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
                    events[:] = [event]
                    if event.details is not None and event.generated_text is not None:
                        # Read on to the end: an unfinished stream keeps its connection.
                        completion = Completion(
                            text=event.generated_text,
                            finish_reason=str(event.details.finish_reason),
                            prompt_tokens=event.details.input_length,
                            completion_tokens=event.details.generated_tokens,
                        )
        if completion is None:
            raise TeacherUnreachable(f"teacher {self._name} broke off in the middle of an output")
        return completion

    async def close(self) -> None:
        pooled, self._pooled = self._pooled, None
        if pooled is not None:
            await pooled.client.exit_stack.aclose()

    @asynccontextmanager
    async def _acquire_client(self) -> AsyncIterator[AsyncInferenceClient]:
        pooled = self._pooled
        if pooled is None or pooled.request_count >= MAX_REQUESTS_PER_CLIENT:
            client = AsyncInferenceClient(
                base_url=self._url, timeout=READ_TIMEOUT_SECONDS, headers=self._headers
            )
            pooled = self._pooled = _PooledClient(client)
        pooled.request_count += 1
        pooled.in_flight += 1
        completed = False
        try:
            yield pooled.client
            completed = True
        finally:
            if not completed:
                # An unfinished stream returns its connection only when its client is closed.
                pooled.request_count = MAX_REQUESTS_PER_CLIENT
            pooled.in_flight -= 1
            if not pooled.in_flight and pooled is not self._pooled:
                await pooled.client.exit_stack.aclose()

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        label = f"teacher {self._name}"
        try:
            yield
        except OverloadedError as error:
            raise TeacherOverloaded(
                f"{label} is overloaded", retry_after=_get_retry_after(error)
            ) from error
        except ValidationError as error:
            raise Invalid(f"{label} refuses a prompt: {error}", code="teacher_refused") from error
        except (InferenceTimeoutError, httpx2.TimeoutException) as error:
            raise TeacherUnreachable(f"{label} does not respond in time") from error
        except HfHubHTTPError as error:
            raise _make_status_error(label, error) from error
        except TextGenerationError as error:
            cause = error.__cause__
            if isinstance(cause, HfHubHTTPError) and cause.response.status_code != 424:
                raise _make_status_error(label, cause) from error
            raise TeacherGenerationFailed(f"{label} failed to generate: {error}") from error
        except (httpx2.HTTPError, json.JSONDecodeError) as error:
            reason = str(error) or type(error).__name__
            raise TeacherUnreachable(f"{label} does not respond: {reason}") from error


def _make_status_error(label: str, error: HfHubHTTPError) -> QcrdError:
    status = error.response.status_code
    if status == 429:
        return TeacherOverloaded(f"{label} is overloaded", retry_after=_get_retry_after(error))
    if status == 408 or status >= 500:
        return TeacherUnreachable(f"{label} responded {status}")
    return QcrdError(
        f"{label} refuses requests with status {status}: check its address and API key in the "
        "setting QCRD_TEACHERS",
        code="teacher_refused",
    )


def _get_retry_after(error: BaseException) -> float | None:
    """The Retry-After of the response behind `error`, which the client keeps as the cause."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    return (
        None
        if response is None
        else retry_after.parse_retry_after(response.headers.get("retry-after"))
    )
