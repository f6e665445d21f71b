"""OpenAI-compatible servers by one table: each row answers as the one that it is named after.

A row says where that stands and when it was read; `seen` is true of a server that was run beside
it. What the rows share is OpenAI's own wire: `GET /models`, `POST /chat/completions` and
`/completions`, streamed as server-sent events or whole.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from tests.serving import BackgroundServer

JSON = dict[str, Any]
Refusal = tuple[int, JSON]

PROMPT_TOKENS = 11
"""Of every prompt, as `usage` has it."""


def make_error(message: str, *, param: str | None = None, code: str | None = None) -> JSON:
    kind = "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass(frozen=True)
class Row:
    """A provider. `refuses` are its errors by the parameter that is sent. `choices`: the most that
    `n` gives; more of them are refused with `n_refusal` or, without one, given fewer. `reasoning`
    is the field of its traces, or `think` for blocks in the content; `counts` what `usage` counts,
    and `running_usage` says that its last chunk of text has it too."""

    name: str
    source: str
    seen: bool = False
    path: str = "/v1"
    refuses: Mapping[str, Refusal] = field(default_factory=dict)
    choices: int = 128
    n_refusal: Refusal | None = None
    takes: frozenset[str] = frozenset({"chat", "completion"})
    style_refusal: Refusal = (404, make_error("no such route"))
    reasoning: Literal["", "reasoning_content", "reasoning", "think", "think_unclosed"] = ""
    cached: int = 0
    running_usage: bool = False
    counts: Literal["all", "one", "each", "without_reasoning", "nothing"] = "all"
    keep_alive: bytes = b""
    first_chunk: JSON | None = None
    model_entry: JSON = field(default_factory=dict)
    has_models: bool = True
    tokenizes: bool = False
    wants_query: tuple[str, str] | None = None
    key_header: str = "authorization"


class FakeProvider:
    """`answer(prompt, number)` is the text of choice `number` of all so far, `reasons` its trace.

    `quirk` is what befalls the answers: `gzip`, `split` (a chunk ends within a character),
    `unended` (the last line has no end), `html`, `empty`, `filtered`, `cut` (no finish reason),
    `redirect` (to `elsewhere`, if that is another server), `unlisted` (the key may not list
    models), `late` (an error after the stream has begun). `failures` are the answers to the next
    requests, or to those after `answers_before_failures`: JSON, the text of a page, or the bytes of
    a stream. `usage_changes` are told in place of what it counts. `requests` and `headers` are what
    came.
    """

    def __init__(
        self,
        row: Row,
        answer: Callable[[str, int], str],
        *,
        reasons: str = "First I add one.",
        quirk: str = "",
        key: str = "",
    ) -> None:
        self.row, self.answer, self.reasons, self.quirk, self.key = row, answer, reasons, quirk, key
        self.requests: list[JSON] = []
        self.headers: list[dict[str, str]] = []
        self.failures: list[tuple[int, JSON | str | bytes, dict[str, str]]] = []
        self.answers_before_failures = 0
        self.usage_changes: JSON = {}
        self.answered = self.choices_given = 0
        self.elsewhere = ""
        self.prompt_tokens = self.completion_tokens = 0
        """What it wants paid."""
        self._server = BackgroundServer(self._app())
        self.port = self._server.port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.row.path}"

    def close(self) -> None:
        self._server.close()

    def _app(self) -> Starlette:
        path, root = self.row.path, self.row.path.removesuffix("/v1")
        routes = [
            Route(f"{path}/chat/completions", self._chat, methods=["POST"]),
            Route(f"{path}/completions", self._complete, methods=["POST"]),
            Route(f"/elsewhere{path}/chat/completions", self._chat, methods=["POST"]),
        ]
        if self.row.has_models:
            routes.append(Route(f"{path}/models", self._models))
        if self.row.tokenizes:
            routes.append(Route(f"{root}/tokenize", self._tokenize, methods=["POST"]))
        return Starlette(routes=routes)

    async def _models(self, request: Request) -> Response:
        if (refused := self._check_access(request)) is not None:
            return refused
        if self.quirk == "unlisted":
            told = make_error("You have insufficient permissions: Missing scopes: api.model.read")
            return JSONResponse(told, 403)
        entry = {"id": "m", "object": "model", **self.row.model_entry}
        return JSONResponse({"object": "list", "data": [entry, {"id": "other"}]})

    async def _tokenize(self, request: Request) -> Response:
        text = (await request.json())["prompt"]
        return JSONResponse({"tokens": list(range(len(text.split())))})

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        prompt = "\n".join(str(message["content"]) for message in body["messages"])
        return self._respond(request, body, prompt, "chat")

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        return self._respond(request, body, body["prompt"], "completion")

    def _check_access(self, request: Request) -> Response | None:
        sent = request.headers.get(self.row.key_header, "").removeprefix("Bearer ")
        if self.key and sent != self.key:
            told = make_error(f"Incorrect API key provided: {sent}", code="invalid_api_key")
            return JSONResponse(told, 401)
        wanted = self.row.wants_query
        if wanted is not None and request.query_params.get(wanted[0]) != wanted[1]:
            return JSONResponse(make_error("Resource not found", code="404"), 404)
        return None

    def _respond(self, request: Request, body: JSON, prompt: str, style: str) -> Response:
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        if (refused := self._check_access(request)) is not None:
            return refused
        if self.failures and self.answered >= self.answers_before_failures:
            return _fail(*self.failures.pop(0))
        if (refusal := self._refuse(body, style)) is not None:
            return JSONResponse(refusal[1], refusal[0])
        if self.quirk == "html":
            return HTMLResponse("<html>Welcome to our proxy</html>")
        if self.quirk == "redirect" and not request.url.path.startswith("/elsewhere"):
            path = f"/elsewhere{request.url.path}?{request.url.query}"
            return RedirectResponse(f"{self.elsewhere}{path}", 307)
        events = self._make_events(body, prompt, style)
        if self.quirk == "gzip":
            content = gzip.compress(b"".join(events))
            headers = {"content-encoding": "gzip"}
            return Response(content, media_type="text/event-stream", headers=headers)
        return StreamingResponse(iter(_shape(events, self.quirk)), media_type="text/event-stream")

    def _refuse(self, body: JSON, style: str) -> Refusal | None:
        if style not in self.row.takes:
            return self.row.style_refusal
        for name, refusal in self.row.refuses.items():
            if name in body:
                return refusal
        if body.get("n", 1) > self.row.choices and self.row.n_refusal is not None:
            return self.row.n_refusal
        return None

    def _make_events(self, body: JSON, prompt: str, style: str) -> list[bytes]:
        count = min(body.get("n", 1), self.row.choices)
        self.answered += 1
        texts = []
        for _ in range(count):
            self.choices_given += 1
            text = "" if self.quirk == "empty" else self.answer(prompt, self.choices_given)
            texts.append(_as_json(text) if "response_format" in body else text)
        events = [self.row.keep_alive] if self.row.keep_alive else []
        events += [_encode(self.row.first_chunk)] if self.row.first_chunk else []
        written = []
        for index, text in enumerate(texts):
            pieces = self._make_deltas(text, style)
            written.append(len(pieces))
            events += [_encode(_make_chunk(index, piece, style)) for piece in pieces]
            reason = "content_filter" if self.quirk == "filtered" else "stop"
            events.append(_encode(_make_chunk(index, {}, style, reason)))
        if self.quirk == "cut":  # as Ollama ends when its runner fails: no reason, no mark
            return events[:-1]
        if self.quirk == "late":
            told = {"message": "Provider disconnected", "code": 502}
            return [*events[:1], _encode({"error": told, "choices": []})]
        self.prompt_tokens += PROMPT_TOKENS
        self.completion_tokens += sum(written)
        for usage in self._make_usages(body, written):
            if self.row.running_usage:
                last = _make_chunk(0, {}, style, "stop")
                events.append(_encode({**last, "usage": usage}))
            events.append(_encode({"choices": [], "usage": usage}))
        return [*events, b"data: [DONE]\n\n"]

    def _make_deltas(self, text: str, style: str) -> list[JSON]:
        name = "content" if style == "chat" else "text"
        pieces = [{name: piece} for piece in _cut(text)]
        match self.row.reasoning:
            case "":
                return pieces
            case "think":
                return [{name: f"<think>{self.reasons}</think>\n"}, *pieces]
            case "think_unclosed":
                return [{name: f"{self.reasons}</think>\n"}, *pieces]
        return [*({self.row.reasoning: piece} for piece in _cut(self.reasons)), *pieces]

    def _make_usages(self, body: JSON, written: Sequence[int]) -> list[JSON]:
        """One, or llama.cpp's: one per choice."""
        if self.row.counts == "nothing" or not body.get("stream_options"):
            return []
        if self.row.counts == "each":
            return [self._make_usage(each, each) for each in written]
        total = sum(written)
        traces = len(_cut(self.reasons)) * len(written) if self.row.reasoning else 0
        hidden = traces if self.row.counts == "without_reasoning" else 0
        counted = written[0] if self.row.counts == "one" else total - hidden
        return [self._make_usage(counted, counted + hidden)]

    def _make_usage(self, counted: int, all_written: int) -> JSON:
        return {
            "prompt_tokens": PROMPT_TOKENS,
            "completion_tokens": counted,
            "total_tokens": PROMPT_TOKENS + all_written,
            "prompt_tokens_details": {"cached_tokens": self.row.cached},
            **self.usage_changes,
        }


def _fail(status: int, told: JSON | str | bytes, headers: dict[str, str]) -> Response:
    if isinstance(told, bytes):
        return Response(told, status, headers, media_type="text/event-stream")
    make = HTMLResponse if isinstance(told, str) else JSONResponse
    return make(told, status, headers)


def _as_json(text: str) -> str:
    """What a schema of `explanation` and `answer` makes of it."""
    explanation, _, answer = text.partition("\n<Answer>: ")
    return json.dumps({"explanation": explanation.strip(), "answer": answer})


def _cut(text: str) -> list[str]:
    """One piece per word, as tokens are about."""
    return [piece + " " for piece in text.split(" ")[:-1]] + text.split(" ")[-1:]


def _make_chunk(index: int, delta: JSON, style: str, finish_reason: str | None = None) -> JSON:
    content = {"delta": delta} if style == "chat" else {"text": "", **delta}
    choice = {"index": index, "finish_reason": finish_reason, **content}
    return {"id": "c", "object": "chunk", "created": 1, "model": "m", "choices": [choice]}


def _encode(event: JSON) -> bytes:
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode()


def _shape(events: Sequence[bytes], quirk: str) -> Iterator[bytes]:
    if quirk == "unended":
        yield b"".join(events).rstrip(b"\n")
    elif quirk == "split":
        whole = b"".join(events)
        yield from (whole[start : start + 7] for start in range(0, len(whole), 7))
    else:
        yield from events


def make_unsupported(name: str, why: str) -> Refusal:
    told = f"Unsupported {why}"
    return 400, make_error(told, param=name, code="unsupported_parameter")


READ = "read 2026-11-28"
OPENAI_REASONING = {
    "max_tokens": make_unsupported(
        "max_tokens",
        "parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' "
        "instead.",
    ),
    "temperature": (
        400,
        make_error(
            "Unsupported value: 'temperature' does not support 0.7 with this model. Only the "
            "default (1) value is supported.",
            param="temperature",
            code="unsupported_value",
        ),
    ),
    "stop": make_unsupported("stop", "parameter: 'stop' is not supported with this model."),
}
CHAT_ONLY = (
    404,
    make_error(
        "This is a chat model and not supported in the v1/completions endpoint. Did you mean to "
        "use v1/chat/completions?",
        param="model",
    ),
)
CHAT = frozenset({"chat"})
ROWS = (
    Row("openai", f"API reference, Chat; {READ}", takes=CHAT, style_refusal=CHAT_ONLY),
    Row(
        "openai-reasoning",
        f"guide Reasoning models, error bodies from its forum; {READ}",
        takes=CHAT,
        style_refusal=CHAT_ONLY,
        refuses=OPENAI_REASONING,
    ),
    Row(
        "azure",
        f"Azure OpenAI REST reference and Content filtering; {READ}",
        path="/openai/deployments/m",
        key_header="api-key",
        wants_query=("api-version", "2024-10-21"),
        has_models=False,
        first_chunk={"choices": [], "prompt_filter_results": [{"prompt_index": 0}]},
    ),
    Row(
        "anthropic",
        f"OpenAI SDK compatibility: n must be exactly 1; {READ}",
        takes=CHAT,
        choices=1,
        n_refusal=(400, make_error("n: Input should be less than or equal to 1")),
    ),
    Row(
        "gemini",
        f"OpenAI compatibility, PROTOTYPES B4; {READ}",
        path="/v1beta/openai",
        takes=CHAT,
        choices=1,
        n_refusal=(400, {"error": {"code": 400, "message": "Multiple candidates is not enabled"}}),
        counts="without_reasoning",
    ),
    Row(
        "openrouter",
        f"API reference, Streaming and Reasoning tokens; {READ}",
        path="/api/v1",
        takes=CHAT,
        choices=1,
        reasoning="reasoning",
        keep_alive=b": OPENROUTER PROCESSING\n\n",
        model_entry={"context_length": 8192},
    ),
    Row(
        "deepseek",
        f"guide Reasoning model, FAQ on rate limits; {READ}",
        takes=CHAT,
        choices=1,
        reasoning="reasoning_content",
        keep_alive=b": keep-alive\n\n",
        refuses={
            "response_format": (400, make_error("This response_format type is unavailable now"))
        },
    ),
    Row(
        "groq",
        f"OpenAI compatibility: n must be 1; {READ}",
        path="/openai/v1",
        takes=CHAT,
        choices=1,
        n_refusal=(400, make_error("'n' : number must be at most 1", param="n")),
        model_entry={"context_window": 8192},
    ),
    Row(
        "mistral",
        f"API reference: seed is random_seed, unknown fields are 422; {READ}",
        takes=CHAT,
        refuses={
            name: (
                422,
                {
                    "detail": [
                        {
                            "type": "extra_forbidden",
                            "loc": ["body", name],
                            "msg": "Extra inputs are not permitted",
                        }
                    ]
                },
            )
            for name in ("seed", "stream_options")
        },
        counts="nothing",
    ),
    Row(
        "vllm",
        f"OpenAI-compatible server, Reasoning outputs; {READ}",
        reasoning="reasoning_content",
        model_entry={"max_model_len": 8192},
        tokenizes=True,
    ),
    Row(
        "sglang",
        f"OpenAI APIs, Completions; {READ}",
        reasoning="reasoning_content",
        model_entry={"max_model_len": 8192},
    ),
    Row(
        "llama.cpp",
        "the server in xllamacpp 2026.10, run 2026-11-27",
        seen=True,
        choices=4,
        n_refusal=(400, make_error("n must be between 1 <= value <= 4")),
        counts="each",
        model_entry={"meta": {"n_ctx": 8192}},
        tokenizes=True,
    ),
    Row("llama.cpp-whole", "its usage without streaming, run 2026-11-27", seen=True, counts="one"),
    Row("ours", "services/teacher", seen=True, running_usage=True),
    Row("ollama", f"OpenAI compatibility, supported fields; {READ}", choices=1),
    Row("tgi-chat", "TGI's openapi.json: n is UNUSED", takes=CHAT, choices=1),
    Row("thinks-aloud", "a server without a reasoning parser", takes=CHAT, reasoning="think"),
    Row(
        "thinks-unclosed",
        "templates that open the block in the prompt",
        takes=CHAT,
        reasoning="think_unclosed",
    ),
    Row("silent", "a server without usage", counts="nothing"),
)
BY_NAME: Mapping[str, Row] = {row.name: row for row in ROWS}
