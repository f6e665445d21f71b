"""Another server's model: a real TGI, or anything that speaks OpenAI's completions.

One streamed call per request; closing the stream closes the connection, which is the cancel. A
call is repeated only while nothing of it has been answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from typing import Any

import httpx

from qcrd.errors import Invalid
from services.teacher.engines.base import (
    Conversation,
    EngineInfo,
    Grammar,
    SimpleToken,
    Token,
    ValidGenerateRequest,
)
from services.teacher.engines.upstream.retries import Again, backoff, refusal
from services.teacher.engines.upstream.wire import (
    JSON,
    OpenAIReader,
    events,
    from_tgi,
    openai_body,
    tgi_body,
)
from services.teacher.errors import (
    GenerationFailed,
    InputValidationError,
    Overloaded,
    TemplateFailed,
)
from services.teacher.metrics.batches import Batches

# An upstream that does not state its context; it will refuse what is too long for it itself.
DEFAULT_CONTEXT = 4096
CONNECT_SECONDS = 10
# What an upstream may still take to end an answer whose last token is known.
END_SECONDS = 1.0
ROUTES = ("/generate_stream", "/v1/completions", "/v1/chat/completions")
# A kept connection saves a TLS handshake. In the clear it costs: httpcore looks at each idle one
# for every request, which with dozens of them takes longer than to connect.
KEPT_SECURE, KEPT_CLEAR = 128, 0


class UpstreamEngine:
    """`model_id` is passed on as the OpenAI `model`; a TGI has one model and ignores it.

    `attempts` of one call, as long as it has not been answered; `silence`: seconds an upstream may
    say nothing in the middle of one.
    """

    def __init__(
        self,
        url: str,
        model_id: str,
        *,
        key: str | None,
        max_total_tokens: int | None,
        max_input_tokens: int | None,
        attempts: int = 4,
        silence: float = 300,
    ) -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._url, self._model = url.rstrip("/").removesuffix("/v1"), model_id
        # Parsed once: with a path, httpx would parse and join it anew for every request.
        self._routes = {path: httpx.URL(f"{self._url}{path}") for path in ROUTES}
        self._limits = (max_input_tokens, max_total_tokens)
        self._attempts = attempts
        kept = KEPT_SECURE if self._url.startswith("https:") else KEPT_CLEAR
        self._client = httpx.AsyncClient(
            base_url=self._url,
            headers=headers,
            timeout=httpx.Timeout(silence, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=kept),
        )
        self._info: EngineInfo | None = None
        self._tgi = False
        self.batches = Batches()
        self._open = 0

    @property
    def info(self) -> EngineInfo:
        assert self._info is not None
        return self._info

    async def start(self) -> None:
        """Ask what the upstream is. Raises `Invalid` when nothing answers there."""
        try:
            reply = await self._client.get("/info", timeout=10)
            if reply.status_code in (404, 405):
                reply = await self._client.get("/v1/models", timeout=10)
            reply.raise_for_status()
            told = reply.json()
            if not isinstance(told, dict):
                raise ValueError("not an object")
        except (httpx.HTTPError, ValueError) as error:
            raise Invalid(
                f"TEACHER_UPSTREAM_URL={self._url}: no TGI or OpenAI-compatible server answers "
                f"there ({type(error).__name__}): start it or correct the URL and key",
                param="TEACHER_UPSTREAM_URL",
            ) from error
        self._tgi = "max_total_tokens" in told
        asked_input, asked_total = self._limits
        total = asked_total or told.get("max_total_tokens", DEFAULT_CONTEXT)
        most = asked_input or told.get("max_input_tokens", total - 1)
        name = told["model_id"] if self._tgi else self._model
        self._info = EngineInfo(
            name,
            "upstream",
            most,
            total,
            # An OpenAI-compatible server may have these; it does not say so.
            supports_token_ids=self._tgi,
            supports_logprobs=self._tgi,
            supports_seed=self._tgi,
            supports_grammar=self._tgi,
            model_sha=told.get("model_sha"),
            pipeline_tag=told.get("model_pipeline_tag"),
        )

    async def tokenize(self, text: str, *, special: bool = True) -> Sequence[SimpleToken] | None:
        """A TGI's tokenizer always adds its own tokens, whatever `special` says."""
        if not self._tgi:
            return None
        reply = await self._asked("/tokenize", {"inputs": text})
        return [SimpleToken(p["id"], p["text"], p["start"], p["stop"]) for p in reply]

    async def template(self, conversation: Conversation) -> str | None:
        if not self._tgi:
            return None
        body = {"messages": [dict(message) for message in conversation.messages]}
        tools = [dict(tool) for tool in conversation.tools]
        try:
            told = await self._asked(
                "/chat_tokenize", {**body, **({"tools": tools} if tools else {})}
            )
        except InputValidationError as error:
            raise TemplateFailed(error.message) from error
        return str(told["templated_text"])

    async def prefill(self, request: ValidGenerateRequest) -> Sequence[Token]:
        """Neither protocol tells the prompt's log-probabilities in a stream."""
        return ()

    async def check_grammar(self, grammar: Grammar) -> None:
        """The upstream compiles it, and its refusal is passed on."""

    async def submit(self, request: ValidGenerateRequest) -> AsyncGenerator[Token, None]:
        path = "/generate_stream" if self._tgi else "/v1/completions"
        if request.conversation is not None:
            path = "/v1/chat/completions"
        body = tgi_body(request) if self._tgi else openai_body(request, self._model)
        self._count(1)
        try:
            for attempt in range(self._attempts):
                last = attempt == self._attempts - 1
                async with aclosing(self._call(path, body, request)) as stream:
                    try:
                        first = await anext(stream)
                    except StopAsyncIteration:
                        return
                    except Again as again:
                        if last:
                            raise again.error from again
                        wait = again.wait
                    else:
                        yield first
                        async for token in stream:
                            yield token
                        return
                await asyncio.sleep(backoff(attempt) if wait is None else wait)
        finally:
            self._count(-1)

    async def _call(
        self, path: str, body: JSON, request: ValidGenerateRequest
    ) -> AsyncGenerator[Token, None]:
        """One attempt. Raises `Again` while another one may help, else `TeacherError`."""
        answered = False
        try:
            async with self._client.stream("POST", self._routes[path], json=body) as reply:
                if reply.is_error:
                    raise await refusal(reply)
                kind = reply.headers.get("content-type", "")
                if not kind.startswith("text/event-stream"):
                    raise GenerationFailed(f"upstream answered {kind or 'nothing'}, not a stream")
                parts = reply.aiter_raw()
                async for token in self._read(parts, request):
                    answered = True
                    if token.finish_reason is not None or token.generated_tokens is not None:
                        await _ended(parts)
                    yield token
        except Overloaded as error:
            raise Again(error) from error
        except httpx.HTTPError as error:
            failed = GenerationFailed(f"upstream: {type(error).__name__} {error}".rstrip())
            # An upstream that hangs would hang again, for as long.
            if answered or isinstance(error, httpx.ReadTimeout):
                raise failed from error
            raise Again(failed) from error
        except (KeyError, TypeError, AttributeError) as error:
            raise GenerationFailed(f"upstream sent an event of another shape: {error!r}") from error

    def _read(
        self, parts: AsyncIterator[bytes], request: ValidGenerateRequest
    ) -> AsyncIterator[Token]:
        stream = events(parts)
        if self._tgi:
            return from_tgi(stream)
        return OpenAIReader(request.stop, request.max_new_tokens).tokens(stream)

    async def _asked(self, path: str, body: JSON) -> Any:
        """A small question to a TGI. Raises `TeacherError`."""
        try:
            reply = await self._client.post(path, json=body)
            if reply.is_error:
                error = await refusal(reply)
                raise error.error if isinstance(error, Again) else error
            return reply.json()
        except (httpx.HTTPError, ValueError) as error:
            raise GenerationFailed(f"upstream: {type(error).__name__} {error}") from error

    def _count(self, more: int) -> None:
        self._open += more
        self.batches.now(rows=self._open, tokens=0)

    async def close(self) -> None:
        await self._client.aclose()


async def _ended(parts: AsyncIterator[bytes]) -> None:
    """Read an answer to its end: only then its connection is not torn, but closed or kept."""
    with suppress(httpx.HTTPError, TimeoutError):
        async with asyncio.timeout(END_SECONDS):
            async for _ in parts:
                pass
