"""The client of a teacher behind an OpenAI-compatible URL, without a teacher server between."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai

from qcrd.errors import QcrdError
from qcrd.runtime.keys import digest
from services.api.assembling.sampling_plan import PromptRequest, SamplingParams
from services.api.assembling.teacher.credentials import build_headers, list_secrets
from services.api.assembling.teacher.memory import FORGETFUL, TeacherMemory
from services.api.assembling.teacher.openai.connection import make_openai_client
from services.api.assembling.teacher.openai.errors import translate_openai_errors
from services.api.assembling.teacher.openai.generator import OpenAIGenerator
from services.api.assembling.teacher.openai.models import find_context, list_models
from services.api.assembling.teacher.openai.parameters import ParameterSupport
from services.api.assembling.teacher.openai.providers import find_provider
from services.api.assembling.teacher.teacher_client import Notify, StreamProgress, TeacherInfo
from services.api.assembling.teacher.teacher_errors import NoTokenizer, TeacherUnreachable
from services.api.assembling.tokens.token_counts import TokenEstimator
from services.api.settings import TeacherConfig

PROBE_TIMEOUT_SECONDS = 10.0
NO_LIST_STATUSES = (400, 403, 404, 405, 501)
"""Of servers that have no list of models, and for keys that may generate and not list."""
MAX_CHOICES = 64
"""Of one request, until the server says that it gives fewer: as many samples as a job may want."""


class OpenAIClient:
    def __init__(
        self,
        name: str,
        teacher: TeacherConfig,
        notify: Notify,
        memory: TeacherMemory = FORGETFUL,
    ) -> None:
        assert teacher.model is not None  # the configuration is refused without
        self._label = f"teacher {name}"
        self._model = teacher.model
        self._context = teacher.context
        self._base_url = make_base_url(teacher.url)
        self._headers = build_headers(teacher)
        self._secrets = list_secrets(teacher)
        self._provider = find_provider(self._base_url)
        self._has_tokenizer = self._provider is None
        self._client = make_openai_client(teacher, self._base_url)
        most = MAX_CHOICES if self._provider is None else self._provider.max_choices
        left_out = () if self._provider is None else self._provider.left_out
        self._generator = OpenAIGenerator(
            self._label,
            self._client,
            teacher.model,
            ParameterSupport(notify, max_choices=most, left_out=left_out, memory=memory),
            TokenEstimator(self.count_tokens),
            self._secrets,
        )

    @property
    def max_choices(self) -> int:
        return self._generator.support.max_choices

    async def fetch_info(self) -> TeacherInfo:
        """From `/models`, which not every server has: one without it is asked all the same."""
        fingerprint = make_fingerprint(self._base_url, self._model)
        models = await self._fetch_models()
        return TeacherInfo(
            fingerprint,
            max_total_tokens=self._context or find_context(models, self._model),
            enforces_schema=self._provider is not None and self._provider.enforces_schema,
            sure_choices=1 if self._provider is None else self.max_choices,
            models=list_models(models),
        )

    async def _fetch_models(self) -> Any:
        with translate_openai_errors(self._label, self._secrets):
            try:
                response = await self._client.models.with_raw_response.list(
                    timeout=PROBE_TIMEOUT_SECONDS
                )
            except openai.APIStatusError as error:
                if error.status_code in NO_LIST_STATUSES:
                    return {}
                raise
        try:
            return response.http_response.json()
        except ValueError:
            media_type = response.headers.get("content-type", "nothing")
            raise QcrdError(
                f"{self._label}: GET {self._base_url}/models answers with {media_type}, not JSON: "
                "no OpenAI-compatible server is at `url` in the setting QCRD_TEACHERS",
                code="teacher_refused",
            ) from None

    async def check_upstream(self) -> None:
        await self._fetch_models()

    async def count_tokens(self, texts: Sequence[str], *, concurrency: int = 1) -> list[int]:
        """vLLM, SGLang and llama.cpp have a route for it; hosted providers do not."""
        if not self._has_tokenizer:
            raise NoTokenizer(f"{self._label} has no route that counts tokens")
        limit = asyncio.Semaphore(concurrency)
        async with httpx2.AsyncClient(
            timeout=PROBE_TIMEOUT_SECONDS, headers=self._headers
        ) as session:

            async def count(text: str) -> int:
                async with limit:
                    return await self._count_text(session, text)

            return list(await asyncio.gather(*map(count, texts)))

    async def _count_text(self, session: httpx2.AsyncClient, text: str) -> int:
        # vLLM and SGLang read `prompt`, llama.cpp reads `content`.
        body = {"model": self._model, "prompt": text, "content": text, "add_special": True}
        url = self._base_url.removesuffix("/v1") + "/tokenize"
        try:
            response = await session.post(url, json=body)
            tokens = response.json() if response.is_success else {}
        except httpx2.HTTPError as error:
            raise TeacherUnreachable(f"{self._label} does not respond: {error!r}") from error
        except ValueError:
            tokens = {}
        if isinstance(tokens, dict) and isinstance(tokens.get("tokens"), list):
            return len(tokens["tokens"])
        self._has_tokenizer = False
        raise NoTokenizer(f"{self._label} has no route that counts tokens")

    async def generate(
        self, request: PromptRequest, sampling: SamplingParams, progress: StreamProgress
    ) -> None:
        await self._generator.generate(request, sampling, progress)

    async def close(self) -> None:
        await self._client.close()


def make_base_url(url: str) -> str:
    """The address below which `/chat/completions` is: a URL without a path gets OpenAI's own."""
    url = url.rstrip("/")
    return url if urlsplit(url).path else f"{url}/v1"


def make_fingerprint(base_url: str, model: str) -> str:
    """Which model answers, of a server that tells no digest of it."""
    return digest("openai", base_url, model)
