"""llama.cpp as the wheel `xllamacpp` gives it: loading, the prompt's tokens, warm prefixes."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from services.teacher.engines.base import Piece
from services.teacher.errors import GenerationFailed

# Idle prompt states kept in memory, in MiB: a 300-token prefix of a 135M model takes 7.
PROMPT_CACHE_MIB = 512
# Few-shot prompts of one task agree for longer than this many characters; chat preambles do not.
HEAD = 256
HEADS_KEPT = 64
HTTP_THREADS = 2


def load(path: Path, *, threads: int, slots: int, context: int, key: str) -> Any:
    """A loaded `xllamacpp.Server` of `slots` sequences of `context` tokens each; takes seconds.

    It also listens on a loopback port of its own choosing, where it alone offers its tokenizer;
    `key` keeps other users of the machine out of it.
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
    params.cache_ram_mib = PROMPT_CACHE_MIB
    # Any slot is as good as another: what a slot lacks comes from the prompt cache.
    params.slot_prompt_similarity = 0.0
    params.fit_params = False
    params.verbosity = -1
    params.n_threads_http = HTTP_THREADS
    params.api_keys = [key]
    return xllamacpp.Server(params)


class Tokenizer:
    """The GGUF's own tokenizer, asked over the engine's loopback port."""

    def __init__(self, address: str, key: str) -> None:
        # A kept connection occupies one of llama.cpp's threads, and it closes idle ones after 5 s.
        limits = httpx.Limits(max_connections=HTTP_THREADS, keepalive_expiry=1.0)
        self._client = httpx.AsyncClient(
            base_url=address,
            headers={"authorization": f"Bearer {key}"},
            timeout=60,
            limits=limits,
            trust_env=False,
        )

    async def pieces(self, text: str) -> list[Piece]:
        """Raises `GenerationFailed`."""
        asked = {"content": text, "add_special": True, "parse_special": True, "with_pieces": True}
        return locate(text, (await self._ask("/tokenize", asked))["tokens"])

    async def text(self, token_id: int) -> str:
        """The written form of a special token, for example `<|im_end|>`."""
        return str((await self._ask("/detokenize", {"tokens": [token_id]}))["content"])

    async def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            reply = await self._client.post(path, json=body)
            reply.raise_for_status()
        except httpx.HTTPError as error:
            raise GenerationFailed(f"tokenizer: {type(error).__name__} {error}") from error
        told: dict[str, Any] = reply.json()
        return told

    async def close(self) -> None:
        await self._client.aclose()


def locate(text: str, tokens: list[dict[str, Any]]) -> list[Piece]:
    """Byte offsets of `tokens` ({"id", "piece": str or list of bytes}) in `text`.

    Tokens the tokenizer added have no place in the text. A SentencePiece vocabulary puts a space
    before the first word; it is not in the text either.
    """
    data, at, pieces = text.encode(), 0, []
    for token in tokens:
        piece = token["piece"]
        raw = piece.encode() if isinstance(piece, str) else bytes(piece)
        if not data.startswith(raw, at):
            raw = raw.removeprefix(b" ")
        if not raw or not data.startswith(raw, at):
            pieces.append(Piece(token["id"], "", 0, 0))
            continue
        shown = raw.decode(errors="replace")
        pieces.append(Piece(token["id"], shown, at, at + len(raw)))
        at += len(raw)
    return pieces


class PrefixGate:
    """Reads a shared prompt beginning once instead of once per slot.

    llama.cpp copies the state of a prompt it has finished reading into other slots, but thirty
    requests that arrive together all start cold. The first request with a new beginning runs
    freely; the second reads it for everybody; those after it wait until it has been read.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heads: OrderedDict[str, threading.Event | None] = OrderedDict()

    def enter(self, prompt: str, read: Callable[[], None]) -> None:
        """Return when `prompt` may run; `read` reads it. Blocks: call it from a worker thread."""
        head = prompt[:HEAD]
        if len(head) < HEAD:
            return
        with self._lock:
            first = head not in self._heads
            known = self._heads.setdefault(head, None)
            self._heads.move_to_end(head)
            while len(self._heads) > HEADS_KEPT:
                self._heads.popitem(last=False)
            if first:
                return
            done = known or threading.Event()
            self._heads[head] = done
        if known is not None:
            done.wait()
            return
        try:
            read()
        finally:
            done.set()


def new_key() -> str:
    return secrets.token_urlsafe(24)
