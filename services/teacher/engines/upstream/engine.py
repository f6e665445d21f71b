"""Another server's model: a real TGI, or anything that speaks OpenAI's completions.

One streamed call per request; closing the stream closes the connection, which is the cancel. A
call is repeated only while nothing of it has been answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import httpx2

from qcrd.errors import Invalid
from services.teacher.engines.base import (
    Conversation,
    EngineInfo,
    Grammar,
    SimpleToken,
    Token,
    ValidGenerateRequest,
)
from services.teacher.engines.upstream.choice_group import ChoiceGroup, LearntChoices
from services.teacher.engines.upstream.grammar_forms import find_dialect
from services.teacher.engines.upstream.identity import is_tgi, parse_identity
from services.teacher.engines.upstream.openai_stream import OpenAIStreamParser
from services.teacher.engines.upstream.retries import (
    RetryableError,
    check_is_stream,
    get_backoff_seconds,
    parse_broken_connection,
    parse_error_response,
)
from services.teacher.engines.upstream.token_counts import (
    LocalTokenizer,
    TokenCounter,
    parse_tokens,
)
from services.teacher.engines.upstream.wire import (
    JSON,
    build_openai_body,
    build_tgi_body,
    drain,
    parse_sse,
    parse_tgi_stream,
)
from services.teacher.errors import (
    GenerationFailed,
    InputValidationError,
    Overloaded,
    TeacherError,
    TemplateFailed,
    UpstreamUnreachable,
)
from services.teacher.metrics.batches import BatchMetrics

CONNECT_SECONDS = 10
# Small questions that are no generation: what it is, tokens of a text.
QUESTION_TIMEOUT_SECONDS = 10.0
# Of /health, whose clients wait a few seconds themselves; at most two questions are asked.
REACHABLE_TIMEOUT_SECONDS = 2.0
UPSTREAM_PATHS = ("/generate_stream", "/v1/completions", "/v1/chat/completions")
# A kept connection saves a TLS handshake. In the clear it costs: httpcore looks at each idle one
# for every request, which with dozens of them takes longer than to connect.
MAX_KEEPALIVE_HTTPS, MAX_KEEPALIVE_HTTP = 128, 0


class UpstreamEngine:
    """`model_id` is passed on as the OpenAI `model`; a TGI has one model and ignores it.

    `max_attempts` of one call, as long as it has not been answered; `read_timeout`: seconds an
    upstream may say nothing in the middle of one; `tokenizer`: of its model, where it has none.
    """

    def __init__(
        self,
        url: str,
        model_id: str,
        *,
        api_key: str | None,
        max_total_tokens: int | None,
        max_input_tokens: int | None,
        max_attempts: int = 4,
        read_timeout: float = 300,
        tokenizer: LocalTokenizer | None = None,
    ) -> None:
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._url, self._model = url.rstrip("/").removesuffix("/v1"), model_id
        # Parsed once: with a path, httpx2 would parse and join it anew for every request.
        self._urls = {path: httpx2.URL(f"{self._url}{path}") for path in UPSTREAM_PATHS}
        self._limits = (max_input_tokens, max_total_tokens)
        self._max_attempts = max_attempts
        is_https = self._url.startswith("https:")
        max_keepalive = MAX_KEEPALIVE_HTTPS if is_https else MAX_KEEPALIVE_HTTP
        self._client = httpx2.AsyncClient(
            base_url=self._url,
            headers=headers,
            timeout=httpx2.Timeout(read_timeout, connect=CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=max_keepalive),
        )
        self._info: EngineInfo | None = None
        self._is_tgi, self._dialect = False, find_dialect({})
        self._learnt_choices = LearntChoices()
        self._tokenizer, self._has_tokenize = tokenizer, False
        self._counter = TokenCounter(self._tokenize_or_none)
        self.batch_metrics = BatchMetrics()
        self._open_requests = 0

    @property
    def info(self) -> EngineInfo:
        assert self._info is not None
        return self._info

    async def start(self) -> None:
        """Ask what the upstream is. Raises `Invalid` when nothing answers there."""
        try:
            response = await self._ask_identity()
            response.raise_for_status()
            upstream_info = response.json()
            if not isinstance(upstream_info, dict):
                raise ValueError("not an object")
        except (httpx2.HTTPError, ValueError) as error:
            raise Invalid(
                f"TEACHER_UPSTREAM_URL={self._url}: no TGI or OpenAI-compatible server answers "
                f"there ({type(error).__name__}): start it or correct the URL and key",
                param="TEACHER_UPSTREAM_URL",
            ) from error
        self._is_tgi, self._dialect = is_tgi(upstream_info), find_dialect(upstream_info)
        self._info = parse_identity(upstream_info, self._model, *self._limits)
        if not self._is_tgi and self._tokenizer is None:
            self._has_tokenize = True
            self._has_tokenize = await self._tokenize_or_none("a") is not None

    async def _ask_identity(self, timeout: float = QUESTION_TIMEOUT_SECONDS) -> httpx2.Response:
        response = await self._client.get("/info", timeout=timeout)
        if response.status_code in (404, 405):
            response = await self._client.get("/v1/models", timeout=timeout)
        return response

    async def check_reachable(self) -> bool:
        """An answer is enough: of a refused key every request tells by itself."""
        try:
            return (await self._ask_identity(REACHABLE_TIMEOUT_SECONDS)).status_code < 500
        except httpx2.HTTPError:
            return False

    async def tokenize(
        self, text: str, *, add_special_tokens: bool = True
    ) -> Sequence[SimpleToken] | None:
        """A TGI's tokenizer always adds its own tokens, whatever `add_special_tokens` says."""
        if self._tokenizer is not None:
            return self._tokenizer.tokenize(text, add_special_tokens=add_special_tokens)
        if self._is_tgi:
            tokens = await self._post("/tokenize", {"inputs": text})
            return [SimpleToken(p["id"], p["text"], p["start"], p["stop"]) for p in tokens]
        if not self._has_tokenize:
            return None
        # vLLM and SGLang read the first three of these, llama.cpp the others.
        body = {
            "model": self._model,
            "prompt": text,
            "add_special_tokens": add_special_tokens,
            "content": text,
            "add_special": add_special_tokens,
        }
        return parse_tokens(await self._post("/tokenize", body))

    async def _tokenize_or_none(self, text: str) -> Sequence[SimpleToken] | None:
        """For a count that may be estimated instead."""
        try:
            return await self.tokenize(text)
        except TeacherError:
            return None

    async def apply_chat_template(self, conversation: Conversation) -> str | None:
        if not self._is_tgi:
            return None
        body = {"messages": [dict(message) for message in conversation.messages]}
        tools = [dict(tool) for tool in conversation.tools]
        try:
            response_body = await self._post(
                "/chat_tokenize", {**body, **({"tools": tools} if tools else {})}
            )
        except InputValidationError as error:
            raise TemplateFailed(error.message) from error
        return str(response_body["templated_text"])

    async def score_prompt(self, request: ValidGenerateRequest) -> Sequence[Token]:
        """Neither protocol tells the prompt's log-probabilities in a stream."""
        return ()

    async def check_grammar(self, grammar: Grammar) -> None:
        """The upstream compiles it, and its refusal is passed on."""

    async def submit(self, request: ValidGenerateRequest) -> AsyncGenerator[Token, None]:
        async with aclosing(self._ask((request,))) as stream:
            async for _, token in stream:
                yield token

    def submit_choices(
        self, requests: Sequence[ValidGenerateRequest]
    ) -> Sequence[AsyncGenerator[Token, None]]:
        """A TGI knows no `n` (its own document marks the field as unused)."""
        if self._is_tgi:
            return [self.submit(request) for request in requests]
        return ChoiceGroup(requests, self._learnt_choices, self._ask).open_streams()

    async def _ask(
        self, requests: Sequence[ValidGenerateRequest]
    ) -> AsyncGenerator[tuple[int, Token], None]:
        """One request for a choice of each of `requests`, repeated while nothing is answered."""
        path, body = self._build_call(requests)
        self._track_open(len(requests))
        try:
            for attempt in range(self._max_attempts):
                async with aclosing(self._stream_once(path, body, requests)) as stream:
                    try:
                        first = await anext(stream)
                    except StopAsyncIteration:
                        return
                    except RetryableError as retryable:
                        if attempt == self._max_attempts - 1:
                            raise retryable.error from retryable
                        wait_seconds = retryable.wait_seconds
                    else:
                        yield first
                        async for token in stream:
                            yield token
                        return
                await asyncio.sleep(
                    get_backoff_seconds(attempt) if wait_seconds is None else wait_seconds
                )
        finally:
            self._track_open(-len(requests))

    def _build_call(self, requests: Sequence[ValidGenerateRequest]) -> tuple[str, JSON]:
        """Path and body; the seed is the first one's, the others are up to the upstream."""
        first = requests[0]
        if self._is_tgi:
            return "/generate_stream", build_tgi_body(first)
        path = "/v1/completions" if first.conversation is None else "/v1/chat/completions"
        return path, build_openai_body(first, self._model, self._dialect, n=len(requests))

    async def _stream_once(
        self, path: str, body: JSON, requests: Sequence[ValidGenerateRequest]
    ) -> AsyncGenerator[tuple[int, Token], None]:
        """One attempt. Raises `RetryableError` while another one may help, else `TeacherError`."""
        received_token = False
        try:
            async with self._client.stream("POST", self._urls[path], json=body) as response:
                if response.is_error:
                    raise await parse_error_response(response)
                check_is_stream(response)
                async for token in self._parse_tokens(response.aiter_raw(), requests):
                    received_token = True
                    yield token
        except Overloaded as error:
            raise RetryableError(error) from error
        except httpx2.HTTPError as error:
            raise parse_broken_connection(error, received_token=received_token) from error
        except (KeyError, TypeError, AttributeError) as error:
            raise GenerationFailed(f"upstream sent an event of another shape: {error!r}") from error

    async def _parse_tokens(
        self, parts: AsyncIterator[bytes], requests: Sequence[ValidGenerateRequest]
    ) -> AsyncGenerator[tuple[int, Token], None]:
        """Its last token comes when the answer has been read to its end."""
        if self._is_tgi:
            async for token in parse_tgi_stream(parse_sse(parts)):
                if token.generated_tokens is not None:
                    await drain(parts)
                yield 0, token
            return
        parser = OpenAIStreamParser(requests, self._counter)
        async for index, token in parser.parse_stream(parse_sse(parts, parser.mark_done)):
            if parser.is_done:
                await drain(parts)
            yield index, token

    async def _post(self, path: str, body: JSON) -> Any:
        """A small question, asked once. Raises `TeacherError`."""
        try:
            response = await self._client.post(path, json=body, timeout=QUESTION_TIMEOUT_SECONDS)
            if response.is_error:
                error = await parse_error_response(response)
                raise error.error if isinstance(error, RetryableError) else error
            return response.json()
        except httpx2.HTTPError as error:
            raise UpstreamUnreachable(f"upstream: {type(error).__name__} {error}") from error
        except ValueError as error:
            raise GenerationFailed(f"upstream: {type(error).__name__} {error}") from error

    def _track_open(self, change: int) -> None:
        self._open_requests += change
        self.batch_metrics.set_current_batch(self, size=self._open_requests, max_tokens=0)

    async def close(self) -> None:
        await self._client.aclose()
