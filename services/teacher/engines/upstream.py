"""Another server's model: a real TGI, or anything that speaks OpenAI's completions.

One streamed call per request; closing the stream closes the connection, which is the cancel.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import httpx

from qcrd.errors import Invalid
from services.teacher.engines.base import UNKNOWN_ID, Ends, EngineInfo, Generation, Piece, Token
from services.teacher.errors import GenerationFailed, Overloaded

# An upstream that does not state its context; it will refuse what is too long for it itself.
DEFAULT_CONTEXT = 4096
JSON = dict[str, Any]


class UpstreamEngine:
    """`model_id` is passed on as the OpenAI `model`; a TGI has one model and ignores it."""

    def __init__(
        self,
        url: str,
        model_id: str,
        *,
        key: str | None,
        max_total_tokens: int | None,
        max_input_tokens: int | None,
    ) -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        base = url.rstrip("/").removesuffix("/v1")
        self._url, self._model = base, model_id
        self._limits = (max_input_tokens, max_total_tokens)
        # Reading may take as long as a queue upstream is; connecting may not.
        self._client = httpx.AsyncClient(
            base_url=base, headers=headers, timeout=httpx.Timeout(None, connect=10)
        )
        self._info: EngineInfo | None = None
        self._tgi = False

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
        self._info = EngineInfo(name, "upstream", most, total, token_ids=self._tgi)

    async def tokenize(self, text: str) -> Sequence[Piece] | None:
        if not self._tgi:
            return None
        reply = await self._client.post("/tokenize", json={"inputs": text})
        if reply.is_error:
            raise GenerationFailed(_reason(reply.status_code, reply.content))
        return [Piece(p["id"], p["text"], p["start"], p["stop"]) for p in reply.json()]

    async def submit(self, request: Generation) -> AsyncGenerator[Token, None]:
        path = "/generate_stream" if self._tgi else "/v1/completions"
        body = tgi_body(request) if self._tgi else openai_body(request, self._model)
        try:
            async with self._client.stream("POST", path, json=body) as reply:
                if reply.status_code == 429:
                    raise Overloaded("Model is overloaded")
                if reply.is_error:
                    raise GenerationFailed(_reason(reply.status_code, await reply.aread()))
                events = _events(reply.aiter_lines())
                read = _from_tgi(events) if self._tgi else _from_openai(events, request)
                async for token in read:
                    yield token
        except httpx.HTTPError as error:
            raise GenerationFailed(f"upstream: {type(error).__name__} {error}") from error

    async def close(self) -> None:
        await self._client.aclose()


def tgi_body(request: Generation) -> JSON:
    """Neutral values are left out: TGI refuses some of them (`top_p` 1.0)."""
    given = {name: value for name, value in asdict(request.sampling).items() if value is not None}
    parameters = {
        **given,
        "max_new_tokens": request.max_new_tokens,
        "stop": list(request.stop),
        "details": True,
        "top_n_tokens": request.top_n_tokens or None,
    }
    return {"inputs": request.prompt, "parameters": parameters}


def openai_body(request: Generation, model: str) -> JSON:
    """Stop strings stay here: OpenAI's servers cut them from the text, TGI keeps them."""
    sampling = request.sampling
    body = {
        "model": model,
        "prompt": request.prompt,
        "max_tokens": request.max_new_tokens,
        "temperature": sampling.temperature if sampling.do_sample else 0.0,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "repetition_penalty": sampling.repetition_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        # OpenAI's seeds are signed 64-bit.
        "seed": None if sampling.seed is None else sampling.seed % 2**63,
        "stream": True,
    }
    return {name: value for name, value in body.items() if value is not None}


def cut(text: str, seen: str, stop: Sequence[str]) -> str:
    """`text` up to the first end of a stop string in `seen` + `text`: chunks hold many tokens."""
    whole = seen + text
    for end in range(len(seen) + 1, len(whole) + 1):
        if stop and whole[:end].endswith(tuple(stop)):
            return whole[len(seen) : end]
    return text


async def _events(lines: AsyncIterator[str]) -> AsyncGenerator[JSON, None]:
    async for line in lines:
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:") or data == "[DONE]":
            continue
        event = json.loads(data)
        if error := event.get("error"):
            raise GenerationFailed(error if isinstance(error, str) else error.get("message", ""))
        yield event


async def _from_tgi(events: AsyncIterator[JSON]) -> AsyncGenerator[Token, None]:
    async for event in events:
        token = _token(event["token"], event.get("top_tokens") or ())
        yield replace(token, ends=_ends((event.get("details") or {}).get("finish_reason")))


def _token(item: JSON, top: Sequence[JSON] = ()) -> Token:
    others = tuple(_token(other) for other in top)
    return Token(item["id"], item["text"], item["logprob"], special=item["special"], top=others)


def _ends(reason: str | None) -> Ends | None:
    """TGI's and OpenAI's finish reasons; a stop string is matched here, not upstream."""
    if reason in ("eos_token", "stop"):
        return "eos_token"
    return "length" if reason == "length" else None


async def _from_openai(
    events: AsyncIterator[JSON], request: Generation
) -> AsyncGenerator[Token, None]:
    """A chunk counts as one token; the end of the model is a token without text."""
    seen = ""
    async for event in events:
        for choice in event.get("choices", []):
            text = cut(choice.get("text") or "", seen[-256:], request.stop)
            if text:
                seen += text
                yield Token(UNKNOWN_ID, text)
            if ends := _ends(choice.get("finish_reason")):
                yield Token(UNKNOWN_ID, "", special=True, ends=ends)


def _reason(status: int, body: bytes) -> str:
    try:
        told = json.loads(body).get("error", "")
    except ValueError:
        told = body.decode(errors="replace")
    return f"upstream answered {status}: {told if isinstance(told, str) else told.get('message')}"
