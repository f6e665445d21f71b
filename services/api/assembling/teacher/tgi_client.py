"""A client of one teacher through `huggingface_hub`, the maintained client of the TGI protocol.

Its many errors are reduced to what the caller can do: slow down, wait, try again, or give up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx2
from huggingface_hub import TextGenerationInputGrammarType, set_async_client_factory

from qcrd.errors import QcrdError
from qcrd.records.teachers.token_counts import read_token_count
from qcrd.runtime.keys import digest
from services.api.assembling.sampling_plan import PromptRequest, SamplingParams
from services.api.assembling.teacher.client_pool import READ_TIMEOUT_SECONDS, ClientPool
from services.api.assembling.teacher.credentials import (
    build_headers,
    build_query,
    list_secrets,
)
from services.api.assembling.teacher.memory import FORGETFUL, TeacherMemory
from services.api.assembling.teacher.openai.connection import make_openai_client
from services.api.assembling.teacher.openai.generator import OpenAIGenerator
from services.api.assembling.teacher.openai.parameters import ParameterSupport
from services.api.assembling.teacher.redirects import drop_credentials
from services.api.assembling.teacher.request_cost import track_cost
from services.api.assembling.teacher.teacher_client import (
    Completion,
    Notify,
    StreamProgress,
    TeacherInfo,
)
from services.api.assembling.teacher.teacher_errors import (
    KeyRefused,
    NoTokenizer,
    TeacherUnreachable,
    translate_teacher_errors,
)
from services.api.assembling.tokens.token_counts import TokenEstimator
from services.api.settings import TeacherConfig

PROBE_TIMEOUT_SECONDS = 5.0


def install_http_client_factory() -> None:
    """Give `huggingface_hub` our HTTP sessions, once per process: its own refuse every address
    under HF_HUB_OFFLINE, which sites without internet set."""
    set_async_client_factory(_make_http_client)


def _make_http_client() -> httpx2.AsyncClient:
    hooks = {"response": [drop_credentials, _read_error_body]}
    return httpx2.AsyncClient(event_hooks=hooks, follow_redirects=True, timeout=None)


async def _read_error_body(response: httpx2.Response) -> None:
    """Read the body of a failed stream: it has the error, and the client does not read it."""
    if response.is_error:
        await response.aread()


def _build_grammar(pattern: str) -> TextGenerationInputGrammarType | None:
    return TextGenerationInputGrammarType(type="regex", value=pattern) if pattern else None


class TgiClient:
    """Text goes through TGI's own route, one sample per request. Chats, and several samples of a
    server that says it gives them, go through its OpenAI-compatible ones."""

    def __init__(
        self,
        name: str,
        teacher: TeacherConfig,
        notify: Notify,
        memory: TeacherMemory = FORGETFUL,
    ) -> None:
        self._name = name
        self._url = teacher.url.rstrip("/")
        self._context = teacher.context
        self._headers = build_headers(teacher)
        self._query = build_query(teacher)
        # Given even when there is no key: otherwise the client sends the machine's own hub token.
        self._pool = ClientPool(self._url, {"authorization": None, **self._headers})
        self._token_estimator = TokenEstimator(self.count_tokens)
        self._support = ParameterSupport(notify, max_choices=1, memory=memory)
        self._openai = make_openai_client(
            teacher, f"{self._url}/v1", read_timeout=READ_TIMEOUT_SECONDS
        )
        self._generator = OpenAIGenerator(
            f"teacher {name}",
            self._openai,
            teacher.model or "tgi",
            self._support,
            self._token_estimator,
            list_secrets(teacher),
        )

    @property
    def max_choices(self) -> int:
        return self._support.max_choices

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
        self._support.offer_choices(int(info.get("max_choices") or 1))
        total = self._context or info.get("max_total_tokens")
        is_stated = info.get("context_known") is not False
        return TeacherInfo(
            fingerprint,
            max_input_tokens=info.get("max_input_tokens") if is_stated else None,
            max_total_tokens=total if is_stated else self._context,
            # Our own server says these; a TGI does not.
            has_grammar=info.get("grammar") is True,
            enforces_schema=info.get("chat_schema") is True,
            sure_choices=self.max_choices,
        )

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
            if reply.status_code in (401, 403):
                raise KeyRefused(f"teacher {self._name} refuses the key ({reply.status_code})")
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
        self, request: PromptRequest, sampling: SamplingParams, progress: StreamProgress
    ) -> None:
        if request.prompt.messages or len(request.samples) > 1:
            return await self._generator.generate(request, sampling, progress)
        with track_cost(progress):
            progress.is_free = True
            async with self._support.take_turn():
                progress.is_free = False
                with translate_teacher_errors(self._name):
                    await self._generate_text(request, sampling, progress)
            if not progress.completions:
                raise TeacherUnreachable(
                    f"teacher {self._name} broke off in the middle of an answer"
                )

    async def _generate_text(
        self, request: PromptRequest, sampling: SamplingParams, progress: StreamProgress
    ) -> None:
        greedy = sampling.temperature == 0
        async with self._pool.acquire() as client:
            stream = await client.text_generation(
                request.prompt.text,
                details=True,
                stream=True,
                do_sample=not greedy,
                temperature=None if greedy else sampling.temperature,
                top_p=None if greedy else sampling.top_p,
                seed=request.seed,
                max_new_tokens=sampling.max_new_tokens,
                stop=list(sampling.stop),
                grammar=_build_grammar(request.prompt.grammar),
                # The route that the client posts to returns the prompt unless this is False.
                return_full_text=False,
            )
            async for event in stream:
                progress.streamed_tokens += 1
                self._support.settle()
                if event.details is not None and event.generated_text is not None:
                    # Read on to the end: a stream left halfway keeps its connection.
                    completion = await self._make_completion(request.prompt.text, event)
                    progress.completions = (completion,)

    async def _make_completion(self, prompt: str, last: Any) -> Completion:
        """Older TGI servers, and upstreams behind a teacher, leave counts out."""
        prompt_tokens = read_token_count(last.details.input_length)
        completion_tokens = read_token_count(last.details.generated_tokens)
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
        await self._openai.close()

    def _open_session(self) -> httpx2.AsyncClient:
        """For questions that cost nothing."""
        return httpx2.AsyncClient(
            timeout=PROBE_TIMEOUT_SECONDS, headers=self._headers, params=self._query
        )
