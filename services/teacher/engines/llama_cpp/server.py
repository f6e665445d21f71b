"""llama.cpp in the wheel `xllamacpp`: loading a model, its tokenizer, its chat template."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path
from typing import Any

import httpx2

from qcrd.errors import Invalid
from services.teacher.engines.base import Conversation, SimpleToken
from services.teacher.errors import GenerationFailed, TemplateFailed

# Idle prompt states kept in memory, in MiB: a 300-token prefix of a 135M model takes 7.
PROMPT_CACHE_MIB = 512
HTTP_THREADS = 2


def load_server(
    path: Path,
    *,
    threads: int,
    slots: int,
    context: int,
    api_key: str,
    cache_mib: int = PROMPT_CACHE_MIB,
) -> Any:
    """A loaded `xllamacpp.Server` of `slots` sequences of `context` tokens each; takes seconds.

    Raises `Invalid` when llama.cpp cannot run the file.
    It also listens on a loopback port of its own choosing, where it alone offers its tokenizer;
    `api_key` keeps other users of the machine out of it.
    """
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_parallel = slots
    params.n_ctx = context * slots
    params.kv_unified = False
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.cpuparams.poll = 0
    params.cpuparams_batch.poll = 0
    params.cache_ram_mib = cache_mib
    # The slots are interchangeable: a prefix that a slot lacks comes from the prompt cache.
    params.slot_prompt_similarity = 0.0
    params.fit_params = False
    params.verbosity = -1
    params.n_threads_http = HTTP_THREADS
    params.api_keys = [api_key]
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        raise Invalid(
            f"MODEL_ID: llama.cpp cannot run {path}: its architecture is unknown, the file is cut "
            "short, or memory is; set QCRD_LOG_LEVEL=DEBUG to see its own words, or take another "
            "file",
            param="MODEL_ID",
            code="model_not_loaded",
        ) from error


class TokenizerClient:
    """The GGUF's own tokenizer and template, asked over the engine's loopback port."""

    def __init__(self, address: str, api_key: str) -> None:
        # A kept connection occupies one of llama.cpp's threads, and it closes idle ones after 5 s.
        limits = httpx2.Limits(max_connections=HTTP_THREADS, keepalive_expiry=1.0)
        self._client = httpx2.AsyncClient(
            base_url=address,
            headers={"authorization": f"Bearer {api_key}"},
            timeout=60,
            limits=limits,
            trust_env=False,
        )

    async def tokenize(self, text: str, *, add_special_tokens: bool) -> list[SimpleToken]:
        """Raises `GenerationFailed`."""
        body = {
            "content": text,
            "add_special": add_special_tokens,
            "parse_special": True,
            "with_pieces": True,
        }
        response = await self._post("/tokenize", body)
        # In a thread: for a very long text this takes seconds and would block the event loop.
        return await asyncio.to_thread(
            lambda: locate_tokens(text, _parse_response(response)["tokens"])
        )

    async def decode_token(self, token_id: int) -> str:
        """The written form of a special token, for example `<|im_end|>`."""
        return str(
            _parse_response(await self._post("/detokenize", {"tokens": [token_id]}))["content"]
        )

    async def apply_chat_template(self, conversation: Conversation) -> str:
        """The prompt of `conversation` by the file's own template. Raises `TemplateFailed`."""
        body = {
            "messages": list(conversation.messages),
            **({"tools": list(conversation.tools)} if conversation.tools else {}),
        }
        try:
            return str(_parse_response(await self._post("/apply-template", body))["prompt"])
        except GenerationFailed as error:
            raise TemplateFailed(error.reason) from error

    async def _post(self, path: str, body: dict[str, Any]) -> httpx2.Response:
        try:
            return await self._client.post(path, json=body)
        except httpx2.HTTPError as error:
            raise GenerationFailed(f"tokenizer: {type(error).__name__} {error}") from error

    async def close(self) -> None:
        await self._client.aclose()


def _parse_response(response: httpx2.Response) -> dict[str, Any]:
    """Raises `GenerationFailed`."""
    body: dict[str, Any] = response.json()
    if response.is_error:
        raise GenerationFailed(str(body.get("error", {}).get("message", response.status_code)))
    return body


def locate_tokens(text: str, tokens: list[dict[str, Any]]) -> list[SimpleToken]:
    """Byte offsets of `tokens` ({"id", "piece": str or list of bytes}) in `text`.

    Tokens the tokenizer added have no place in the text. A SentencePiece vocabulary puts a space
    before the first word; it is not in the text either.
    """
    data, position, pieces = text.encode(), 0, []
    for token in tokens:
        piece = token["piece"]
        raw = piece.encode() if isinstance(piece, str) else bytes(piece)
        if not data.startswith(raw, position):
            raw = raw.removeprefix(b" ")
        if not raw or not data.startswith(raw, position):
            pieces.append(SimpleToken(token["id"], "", 0, 0))
            continue
        piece_text = raw.decode(errors="replace")
        pieces.append(SimpleToken(token["id"], piece_text, position, position + len(raw)))
        position += len(raw)
    return pieces


def generate_api_key() -> str:
    return secrets.token_urlsafe(24)
