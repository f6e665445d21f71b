"""What an upstream is asked and what it streams: a TGI's own route, or OpenAI's two."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from services.teacher.engines.base import (
    UNKNOWN_TOKEN_ID,
    EngineFinishReason,
    Token,
    ValidGenerateRequest,
)
from services.teacher.errors import GenerationFailed, InputValidationError, Overloaded, TeacherError

JSON = dict[str, Any]
SEEN = 256
"""Characters kept to find a stop string that spans chunks."""


def tgi_body(request: ValidGenerateRequest) -> JSON:
    """Neutral values are left out: TGI refuses some of them (`top_p` 1.0)."""
    given = {name: value for name, value in asdict(request.sampling).items() if value is not None}
    # TGI's native route has no such penalty; its OpenAI route makes another one of it.
    given.pop("presence_penalty", None)
    grammar = request.grammar
    parameters = {
        **given,
        "max_new_tokens": request.max_new_tokens,
        "stop": list(request.stop),
        "details": True,
        "top_n_tokens": request.top_n_tokens or None,
        "adapter_id": request.adapter_id,
        "grammar": None if grammar is None else {"type": grammar.kind, "value": grammar.value},
    }
    return {"inputs": request.prompt, "parameters": parameters}


def openai_body(request: ValidGenerateRequest, model: str) -> JSON:
    """Stop strings stay here: OpenAI's servers cut them from the text, TGI keeps them."""
    sampling = request.sampling
    body = {
        "model": model,
        "max_tokens": request.max_new_tokens,
        "temperature": sampling.temperature if sampling.do_sample else 0.0,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "repetition_penalty": sampling.repetition_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        # OpenAI's seeds are signed 64-bit.
        "seed": None if sampling.seed is None else sampling.seed % 2**63,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.conversation is None:
        body |= {"prompt": request.prompt, "logprobs": request.top_n_tokens or None}
    else:
        body |= {
            "messages": [dict(message) for message in request.conversation.messages],
            "tools": [dict(tool) for tool in request.conversation.tools] or None,
            "logprobs": True if request.top_n_tokens else None,
            "top_logprobs": request.top_n_tokens or None,
        }
    return {name: value for name, value in body.items() if value is not None}


async def events(parts: AsyncIterator[bytes]) -> AsyncGenerator[JSON, None]:
    """The JSON events of a stream, up to `[DONE]`, however the network cut it. Raises what the
    upstream says went wrong, as `TeacherError`.
    """
    rest = b""
    async for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            if (data := line[5:].strip()) == b"[DONE]":
                return
            yield _event(data)
    if rest.startswith(b"data:") and rest[5:].strip() != b"[DONE]":
        yield _event(rest[5:])


def _event(data: bytes) -> JSON:
    try:
        # Of bytes, `json` would first guess the encoding.
        event = json.loads(data.decode())
    except ValueError as error:
        raise GenerationFailed(f"upstream sent an event that is no JSON: {data[:80]!r}") from error
    if not isinstance(event, dict):
        raise GenerationFailed(f"upstream sent an event that is no object: {data[:80]!r}")
    if said := event.get("error"):
        raise _said(said, event.get("error_type"))
    return event


def _said(said: str | JSON, kind: str | None) -> TeacherError:
    """A TGI streams every refusal with status 200, a full queue too (its server.rs 476-506)."""
    if not isinstance(said, str):
        return GenerationFailed(str(said.get("message", "")))
    if kind == "overloaded":
        return Overloaded("Model is overloaded")
    if kind == "validation":
        return InputValidationError(said.removeprefix(InputValidationError.PREFIX))
    return GenerationFailed(said.removeprefix(GenerationFailed.PREFIX))


async def from_tgi(stream: AsyncIterator[JSON]) -> AsyncGenerator[Token, None]:
    async for event in stream:
        token = _token(event["token"], event.get("top_tokens") or ())
        details = event.get("details")
        if details is None:
            yield token
            continue
        yield replace(
            token,
            ends=ends(details.get("finish_reason")),
            count=details.get("generated_tokens"),
            prompt_tokens=details.get("input_length"),
        )


def _token(item: JSON, top: Sequence[JSON] = ()) -> Token:
    others = tuple(_token(other) for other in top)
    return Token(
        item["id"], item["text"], item["logprob"], special=item["special"], top_tokens=others
    )


def ends(reason: str | None) -> EngineFinishReason | None:
    """TGI's and OpenAI's finish reasons; a stop string is matched here, not upstream."""
    if reason in ("eos_token", "stop", "tool_calls"):
        return "eos_token"
    return "length" if reason == "length" else None


@dataclass
class _Called:
    """A function call that arrives in pieces."""

    name: str = ""
    arguments: str = ""

    def text(self) -> str:
        """As a model behind TGI's own grammar would write it."""
        try:
            arguments = json.loads(self.arguments or "{}")
        except ValueError as error:
            raise GenerationFailed("upstream called a function with arguments not JSON") from error
        return json.dumps({"function": {"_name": self.name, **arguments}}, ensure_ascii=False)


@dataclass
class OpenAIReader:
    """A chunk counts as one token unless the upstream counts itself, in the usage it sends last.

    The last chunk is held back for that: the one that gives a reason, or the `most`th. The end of
    the model is a token without text.
    """

    stop: tuple[str, ...]
    most: int
    given: int = 0
    held: Token | None = None
    seen: str = ""
    reason: EngineFinishReason | None = None
    usage: JSON = field(default_factory=dict)
    called: _Called | None = None

    async def tokens(self, stream: AsyncIterator[JSON]) -> AsyncGenerator[Token, None]:
        async for event in stream:
            self.usage = event.get("usage") or self.usage
            for choice in event.get("choices") or ():
                self.reason = ends(choice.get("finish_reason")) or self.reason
                token = self._token(choice)
                if token is None:
                    continue
                if self.held is not None:
                    yield self.held
                self.given += 1
                last = self.reason is not None or self.given == self.most
                self.held = token if last else None
                if not last:
                    yield token
        for token in self._last():
            yield token

    def _last(self) -> Iterator[Token]:
        """What was held back, and the end of the model, with what the upstream has counted."""
        made, read = self.usage.get("completion_tokens"), self.usage.get("prompt_tokens")
        if self.held is not None:
            full = self.reason if self.reason == "length" else None
            yield replace(self.held, ends=full, count=made, prompt_tokens=read)
        if self.called is not None:
            yield Token(UNKNOWN_TOKEN_ID, self.called.text())
        if self.reason == "eos_token" or (self.reason is not None and self.held is None):
            end = Token(UNKNOWN_TOKEN_ID, "", special=True, finish_reason=self.reason)
            yield replace(end, count=made, prompt_tokens=read)

    def _token(self, choice: JSON) -> Token | None:
        delta = choice.get("delta") or {}
        for call in delta.get("tool_calls") or ():
            self.called = self.called or _Called()
            function = call.get("function") or {}
            self.called.name += function.get("name") or ""
            self.called.arguments += function.get("arguments") or ""
        text = cut(choice.get("text") or delta.get("content") or "", self.seen, self.stop)
        if not text:
            return None
        self.seen = (self.seen + text)[-SEEN:]
        logprob, top = _likelihoods(choice.get("logprobs") or {})
        read = self.usage.get("prompt_tokens")
        return Token(UNKNOWN_TOKEN_ID, text, logprob, top_tokens=top, prompt_tokens=read)


def _likelihoods(told: JSON) -> tuple[float | None, tuple[Token, ...]]:
    """Of a chunk with one token, in the completions' or the chat's form; else unknown."""
    content = told.get("content")
    if content and len(content) == 1:
        top = content[0].get("top_logprobs") or ()
        others = tuple(Token(UNKNOWN_TOKEN_ID, one["token"], one["logprob"]) for one in top)
        return content[0].get("logprob"), others
    values = told.get("token_logprobs")
    if values and len(values) == 1:
        likely = (told.get("top_logprobs") or [{}])[0] or {}
        return values[0], tuple(
            Token(UNKNOWN_TOKEN_ID, text, value) for text, value in likely.items()
        )
    return None, ()


def cut(text: str, seen: str, stop: Sequence[str]) -> str:
    """`text` up to the first end of a stop string in `seen` + `text`: chunks hold many tokens."""
    whole = seen + text
    for end in range(len(seen) + 1, len(whole) + 1):
        if stop and whole[:end].endswith(tuple(stop)):
            return whole[len(seen) : end]
    return text
