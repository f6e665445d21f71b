"""Streamed chat and text completions of one OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import httpx2
import openai

from qcrd.errors import QcrdError
from qcrd.records.teachers.prompt import TeacherPrompt
from services.api.assembling.sampling_plan import PromptRequest, SamplingParams
from services.api.assembling.teacher.openai.error_body import parse_body, parse_error
from services.api.assembling.teacher.openai.errors import make_stream_error, translate_openai_errors
from services.api.assembling.teacher.openai.parameters import ParameterSupport
from services.api.assembling.teacher.openai.stream import StreamedAnswer, build_completions
from services.api.assembling.teacher.prompt_refused import PromptRefused
from services.api.assembling.teacher.request_cost import track_cost
from services.api.assembling.teacher.teacher_client import StreamProgress
from services.api.assembling.teacher.teacher_errors import TeacherUnreachable
from services.api.assembling.tokens.token_counts import TokenEstimator

STREAM_TYPE = "text/event-stream"
CHARACTERS_PER_TOKEN, SLACK_CHARACTERS = 64, 4096
"""An answer of more is not held to its limit by the server, and is not read on."""


def build_body(model: str, prompt: TeacherPrompt) -> dict[str, Any]:
    """Of a request, without the parameters of sampling."""
    if prompt.messages:
        return {"model": model, "messages": [message.to_dict() for message in prompt.messages]}
    body: dict[str, Any] = {"model": model, "prompt": prompt.text}
    if prompt.grammar:
        # A field of our own teacher server; other servers are given no grammar.
        body["grammar"] = {"type": "regex", "value": prompt.grammar}
    return body


def _count_characters(max_new_tokens: int) -> int:
    return max_new_tokens * CHARACTERS_PER_TOKEN + SLACK_CHARACTERS


def _is_json(error: openai.APIStatusError) -> bool:
    return "json" in error.response.headers.get("content-type", "")


class OpenAIGenerator:
    def __init__(
        self,
        label: str,
        client: openai.AsyncOpenAI,
        model: str,
        support: ParameterSupport,
        estimator: TokenEstimator,
        secrets: Collection[str] = (),
    ) -> None:
        self.support = support
        self._label = label
        self._client = client
        self._model = model
        self._estimator = estimator
        self._secrets = secrets

    async def generate(
        self, request: PromptRequest, sampling: SamplingParams, progress: StreamProgress
    ) -> None:
        """One request, sent again without a parameter that the server does not take."""
        is_over = False
        with track_cost(progress):
            while not is_over:
                progress.is_free = True  # nothing has left, or what left was refused
                async with self.support.take_turn():
                    progress.is_free = False
                    with translate_openai_errors(self._label, self._secrets):
                        is_over = await self._try(request, sampling, progress)

    async def _try(
        self, request: PromptRequest, sampling: SamplingParams, progress: StreamProgress
    ) -> bool:
        """Whether an answer came; False where a refusal told how to ask for one."""
        request = request.split(self.support.max_choices)[0]
        fields = self.support.build_fields(request, sampling)
        try:
            await self._stream_answer(request, sampling, fields, progress)
        except openai.APIStatusError as error:
            told = parse_error(error, self._secrets)
            if error.status_code == 403 and self.support.is_settled and not _is_json(error):
                raise PromptRefused(
                    f"a firewall before {self._label} refuses a prompt (status 403, "
                    f"{error.response.headers.get('content-type', 'no content type')}), and has "
                    "let others pass with the same key",
                    "refused",
                ) from error
            if not self.support.learn_refusal(error.status_code, told, fields):
                raise
            return False
        return True

    async def _stream_answer(
        self,
        request: PromptRequest,
        sampling: SamplingParams,
        fields: dict[str, Any],
        progress: StreamProgress,
    ) -> None:
        answer = StreamedAnswer()
        most_characters = len(request.samples) * _count_characters(sampling.max_new_tokens)
        stream = await self._open_stream(request, fields)
        try:
            await self._check_media_type(stream.response)
            async for chunk in stream:
                answer.add(chunk)
                progress.streamed_tokens = answer.chunks
                if answer.characters > most_characters:
                    answer.cut()
                    break
                if len(answer.choices) >= len(request.samples):
                    self.support.settle()
        finally:
            await stream.close()
            # Also of a stream that broke off: choices that had ended are paid for and whole.
            text = request.prompt.text
            progress.completions = await build_completions(answer, text, self._estimator)
        if not progress.completions:
            progress.told = answer.told_usage
            if answer.is_filtered:
                raise PromptRefused(f"{self._label} filters its answer to a prompt", "filtered")
            raise TeacherUnreachable(f"{self._label} broke off in the middle of an answer")
        self.support.learn_choices(len(request.samples), len(answer.choices))
        self.support.settle()

    async def _open_stream(self, request: PromptRequest, fields: dict[str, Any]) -> Any:
        body = build_body(self._model, request.prompt) | fields
        grammar = body.pop("grammar", None)
        if request.prompt.messages:
            return await self._client.chat.completions.create(stream=True, **body)
        extra = None if grammar is None else {"grammar": grammar}
        return await self._client.completions.create(stream=True, extra_body=extra, **body)

    async def _check_media_type(self, response: httpx2.Response) -> None:
        media_type = response.headers.get("content-type", "")
        if media_type.startswith(STREAM_TYPE):
            return
        if media_type.startswith("application/json"):  # an error under status 200, as xAI has it
            told = parse_body(await response.aread(), self._secrets)
            raise make_stream_error(self._label, told)
        if self.support.is_settled:  # it has answered before: a page of its maintenance
            away = TeacherUnreachable(
                f"{self._label} answers with {media_type or 'nothing'} and not with a stream"
            )
            away.was_reached = False
            raise away
        raise QcrdError(
            f"{self._label} answers with {media_type or 'nothing'} and not with a stream of "
            "events: no OpenAI-compatible server is at `url` in the setting QCRD_TEACHERS, or "
            "a proxy stands before it",
            code="teacher_refused",
        )
