"""One teacher, spoken to through `huggingface_hub`, the maintained client of the TGI protocol.

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
"""A TGI server writes a comment every 15 s while a request waits, so this one is gone."""
PROBE_TIMEOUT_SECONDS = 5.0
MAX_REQUESTS_PER_CLIENT = 256
"""Requests after which a client is replaced: it keeps every response it streamed until closed."""


class TeacherOverloaded(Transient):
    """The teacher has no room now (429): the same request again, with fewer beside it."""


class TeacherUnreachable(Transient):
    """The teacher does not answer, or broke off in the middle of an answer. `was_reached`: it may
    have generated something."""

    was_reached = True


class TeacherGenerationFailed(Transient):
    """The teacher took the request and its engine failed on it (424)."""


@dataclass
class StreamProgress:
    """What is known of one request's cost while it runs, also when it breaks off."""

    streamed_tokens: int = 0
    is_free: bool = False
    """Whether nothing can have been generated: it was refused, or never left."""
    completion: Completion | None = None


@dataclass(frozen=True)
class Completion:
    """One generated text with what it cost, in tokens."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


def install_http_client_factory() -> None:
    """Let `huggingface_hub` ask teachers through sessions of ours, once per process: its own refuse
    every address under HF_HUB_OFFLINE, which sites without a way out set because of the hub."""
    set_async_client_factory(_make_http_client)


def _make_http_client() -> httpx2.AsyncClient:
    hooks = {"response": [_read_error_body]}
    return httpx2.AsyncClient(event_hooks=hooks, follow_redirects=True, timeout=None)


async def _read_error_body(response: httpx2.Response) -> None:
    """A stream's error is told in its body, which the client looks at without reading it."""
    if response.is_error:
        await response.aread()


@dataclass
class _PooledClient:
    client: AsyncInferenceClient
    request_count: int = 0
    in_flight: int = 0


class TeacherClient:
    """Requests may run at the same time; `close` when the last one is done."""

    def __init__(self, name: str, teacher: TeacherConfig) -> None:
        self._name = name
        self._url = teacher.url.rstrip("/")
        key = teacher.api_key.get_secret_value() if teacher.api_key else None
        # Given even when there is no key: otherwise the client sends the machine's own hub token.
        self._headers: dict[str, Any] = {"authorization": f"Bearer {key}" if key else None}
        self._pooled: _PooledClient | None = None
        self._tokenizer_session: httpx2.AsyncClient | None = None

    async def fetch_fingerprint(self) -> str:
        """Digest of the model that answers now. `TeacherUnreachable` when none does."""
        with self._translate_errors():
            async with httpx2.AsyncClient(timeout=PROBE_TIMEOUT_SECONDS) as session:
                headers = {name: value for name, value in self._headers.items() if value}
                response = await session.get(f"{self._url}/info", headers=headers)
            if response.status_code in (408, 429) or response.status_code >= 500:
                raise TeacherUnreachable(
                    f"teacher {self._name}: /info answers {response.status_code}"
                )
            info = response.json() if response.is_success else None
        if not isinstance(info, dict) or "model_id" not in info:
            raise QcrdError(
                f"teacher {self._name}: GET /info answers {response.status_code} and no model; a "
                "server of the TGI protocol is needed at its address in the setting QCRD_TEACHERS",
                code="teacher_refused",
            )
        return digest(str(info["model_id"]), str(info.get("model_sha")))

    async def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Of each text, as the teacher's own tokenizer counts them. Costs no generation."""
        if self._tokenizer_session is None:
            self._tokenizer_session = httpx2.AsyncClient(timeout=PROBE_TIMEOUT_SECONDS)
        headers = {name: value for name, value in self._headers.items() if value}
        counts = []
        with self._translate_errors():
            for text in texts:
                response = await self._tokenizer_session.post(
                    f"{self._url}/tokenize", headers=headers, json={"inputs": text}
                )
                tokens = response.json() if response.is_success else None
                if not isinstance(tokens, list):
                    raise TeacherUnreachable(
                        f"teacher {self._name}: /tokenize answers {response.status_code}"
                        + " and no list of tokens" * response.is_success
                    )
                counts.append(len(tokens))
        return counts

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
                    # The route that the client posts to gives the prompt back unless told not to.
                    return_full_text=False,
                )
                async for event in stream:
                    progress.streamed_tokens += 1
                    if event.details is not None and event.generated_text is not None:
                        # Read on to the end: a stream left halfway keeps its connection.
                        progress.completion = Completion(
                            text=event.generated_text,
                            finish_reason=str(event.details.finish_reason),
                            prompt_tokens=event.details.input_length,
                            completion_tokens=event.details.generated_tokens,
                        )

    async def close(self) -> None:
        session, self._tokenizer_session = self._tokenizer_session, None
        if session is not None:
            await session.aclose()
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
                # A stream left halfway gives its connection back only when its client is closed.
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
            raise _make_unreachable_error(f"{label} does not answer in time", error) from error
        except HfHubHTTPError as error:
            raise _make_status_error(label, error) from error
        except TextGenerationError as error:
            cause = error.__cause__
            if isinstance(cause, HfHubHTTPError) and cause.response.status_code != 424:
                raise _make_status_error(label, cause) from error
            raise TeacherGenerationFailed(f"{label} failed to generate: {error}") from error
        except (httpx2.HTTPError, json.JSONDecodeError) as error:
            reason = str(error) or type(error).__name__
            raise _make_unreachable_error(f"{label} does not answer: {reason}", error) from error


NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
"""Failures before the first byte of a request."""


def _make_unreachable_error(message: str, error: Exception) -> TeacherUnreachable:
    unreachable = TeacherUnreachable(message)
    unreachable.was_reached = not isinstance(error, NEVER_SENT) and not isinstance(
        error.__cause__, NEVER_SENT
    )
    return unreachable


def _make_status_error(label: str, error: HfHubHTTPError) -> QcrdError:
    status = error.response.status_code
    if status == 429:
        return TeacherOverloaded(f"{label} is overloaded", retry_after=_get_retry_after(error))
    if status == 408 or status >= 500:
        unreachable = TeacherUnreachable(f"{label} answers {status}")
        # 503 is a refusal; another may come from a proxy that gave up on a running generation.
        unreachable.was_reached = status != 503
        return unreachable
    return QcrdError(
        f"{label} refuses requests with status {status}: check its address and API key in the "
        "setting QCRD_TEACHERS",
        code="teacher_refused",
    )


def _get_retry_after(error: BaseException) -> float | None:
    """What the answer behind `error` asks for; the client keeps it as the cause."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    return (
        None
        if response is None
        else retry_after.parse_retry_after(response.headers.get("retry-after"))
    )
