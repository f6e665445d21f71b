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
from services.api.assembling.sampling_plan import Sampling, Wanted
from services.api.settings import TeacherConfig

SILENCE_SECONDS = 120.0
"""A TGI server writes a comment every 15 s while a request waits, so this one is gone."""
PROBE_SECONDS = 5.0
RENEW = 256
"""Requests after which a client is replaced: it keeps every response it streamed until closed."""


class Overloaded(Transient):
    """The teacher has no room now (429): the same request again, with fewer beside it."""


class Unreachable(Transient):
    """The teacher does not answer, or broke off in the middle of an answer."""

    begun = False
    """Whether some of the answer had come, which has to be paid for."""


class Stumbled(Transient):
    """The teacher took the request and its engine failed on it (424)."""

    begun = False


@dataclass(frozen=True)
class Answer:
    """One generated text with what it cost, in tokens."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


def reach_teachers_offline() -> None:
    """Let `huggingface_hub` ask teachers through sessions of ours, once per process: its own refuse
    every address under HF_HUB_OFFLINE, which sites without a way out set because of the hub."""
    set_async_client_factory(_session)


def _session() -> httpx2.AsyncClient:
    hooks = {"response": [_read_refusal]}
    return httpx2.AsyncClient(event_hooks=hooks, follow_redirects=True, timeout=None)


async def _read_refusal(response: httpx2.Response) -> None:
    """A stream's error is told in its body, which the client looks at without reading it."""
    if response.is_error:
        await response.aread()


@dataclass
class _Line:
    client: AsyncInferenceClient
    uses: int = 0
    busy: int = 0


class TeacherClient:
    """Requests may run at the same time; `close` when the last one is done."""

    def __init__(self, name: str, teacher: TeacherConfig) -> None:
        self._name = name
        self._url = teacher.url.rstrip("/")
        key = teacher.api_key.get_secret_value() if teacher.api_key else None
        # Given even when there is no key: otherwise the client sends the machine's own hub token.
        self._headers: dict[str, Any] = {"authorization": f"Bearer {key}" if key else None}
        self._line: _Line | None = None

    async def fingerprint(self) -> str:
        """Digest of the model that answers now. `Unreachable` when none does."""
        with self._errors():
            async with httpx2.AsyncClient(timeout=PROBE_SECONDS) as session:
                headers = {name: value for name, value in self._headers.items() if value}
                response = await session.get(f"{self._url}/info", headers=headers)
            if response.status_code in (408, 429) or response.status_code >= 500:
                raise Unreachable(f"teacher {self._name}: /info answers {response.status_code}")
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
        counts = []
        with self._errors():
            async with httpx2.AsyncClient(timeout=PROBE_SECONDS) as session:
                headers = {name: value for name, value in self._headers.items() if value}
                for text in texts:
                    response = await session.post(
                        f"{self._url}/tokenize", headers=headers, json={"inputs": text}
                    )
                    if not response.is_success:
                        raise Unreachable(
                            f"teacher {self._name}: /tokenize answers {response.status_code}"
                        )
                    counts.append(len(response.json()))
        return counts

    async def generate(self, wanted: Wanted, sampling: Sampling) -> Answer:
        begun: list[Any] = []
        try:
            return await self._generate(wanted, sampling, begun)
        except (Unreachable, Stumbled) as error:
            error.begun = bool(begun)
            raise

    async def _generate(self, wanted: Wanted, sampling: Sampling, begun: list[Any]) -> Answer:
        """Something is put into `begun` when the first token comes."""
        greedy = sampling.temperature == 0
        answer: Answer | None = None
        with self._errors():
            async with self._client() as client:
                stream = await client.text_generation(
                    wanted.prompt,
                    details=True,
                    stream=True,
                    do_sample=not greedy,
                    temperature=None if greedy else sampling.temperature,
                    top_p=None if greedy else sampling.top_p,
                    seed=wanted.seed,
                    max_new_tokens=sampling.max_new_tokens,
                    stop=list(sampling.stop),
                    # The route that the client posts to gives the prompt back unless told not to.
                    return_full_text=False,
                )
                async for event in stream:
                    begun[:] = [event]
                    if event.details is not None and event.generated_text is not None:
                        # Read on to the end: a stream left halfway keeps its connection.
                        answer = Answer(
                            text=event.generated_text,
                            finish_reason=str(event.details.finish_reason),
                            prompt_tokens=event.details.input_length,
                            completion_tokens=event.details.generated_tokens,
                        )
        if answer is None:
            raise Unreachable(f"teacher {self._name} broke off in the middle of an answer")
        return answer

    async def close(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            await line.client.exit_stack.aclose()

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[AsyncInferenceClient]:
        line = self._line
        if line is None or line.uses >= RENEW:
            client = AsyncInferenceClient(
                base_url=self._url, timeout=SILENCE_SECONDS, headers=self._headers
            )
            line = self._line = _Line(client)
        line.uses += 1
        line.busy += 1
        whole = False
        try:
            yield line.client
            whole = True
        finally:
            if not whole:
                # A stream left halfway gives its connection back only when its client is closed.
                line.uses = RENEW
            line.busy -= 1
            if not line.busy and line is not self._line:
                await line.client.exit_stack.aclose()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        who = f"teacher {self._name}"
        try:
            yield
        except OverloadedError as error:
            raise Overloaded(f"{who} is overloaded", retry_after=_retry_after(error)) from error
        except ValidationError as error:
            raise Invalid(f"{who} refuses a prompt: {error}", code="teacher_refused") from error
        except (InferenceTimeoutError, httpx2.TimeoutException) as error:
            raise Unreachable(f"{who} does not answer in time") from error
        except HfHubHTTPError as error:
            raise _by_status(who, error) from error
        except TextGenerationError as error:
            cause = error.__cause__
            if isinstance(cause, HfHubHTTPError) and cause.response.status_code != 424:
                raise _by_status(who, cause) from error
            raise Stumbled(f"{who} failed to generate: {error}") from error
        except (httpx2.HTTPError, json.JSONDecodeError) as error:
            reason = str(error) or type(error).__name__
            raise Unreachable(f"{who} does not answer: {reason}") from error


def _by_status(who: str, error: HfHubHTTPError) -> QcrdError:
    status = error.response.status_code
    if status == 429:
        return Overloaded(f"{who} is overloaded", retry_after=_retry_after(error))
    if status == 408 or status >= 500:
        return Unreachable(f"{who} answers {status}")
    return QcrdError(
        f"{who} refuses requests with status {status}: check its address and API key in the "
        "setting QCRD_TEACHERS",
        code="teacher_refused",
    )


def _retry_after(error: BaseException) -> float | None:
    """What the answer behind `error` asks for; the client keeps it as the cause."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    return (
        None
        if response is None
        else retry_after.parse_retry_after(response.headers.get("retry-after"))
    )
