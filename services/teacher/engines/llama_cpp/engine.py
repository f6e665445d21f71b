"""GGUF files on llama.cpp: continuous batching over slots, one worker thread per slot.

A worker blocks inside llama.cpp, which calls back with one chunk per token; the callback hands it
to the event loop and, once the stream was closed, asks llama.cpp to stop by returning True.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from services.teacher.engines import grammars
from services.teacher.engines.base import (
    UNKNOWN_TOKEN_ID,
    Conversation,
    EngineFinishReason,
    EngineInfo,
    Grammar,
    SamplingParams,
    SimpleToken,
    Token,
    ValidGenerateRequest,
)
from services.teacher.engines.llama_cpp import server
from services.teacher.engines.llama_cpp.prefix_sharing import PrefixGate, SampleGate
from services.teacher.errors import GenerationFailed
from services.teacher.metrics.batches import Batches

Chunk = dict[str, Any]
# Enough for a few-shot prompt and its reasoning; 32 sequences of a 135M model then take 0.75 GB.
DEFAULT_CONTEXT = 1024
# A prompt of one token: any task makes llama.cpp keep the states of idle slots.
NUDGE = "a"
_END = object()


class GgufEngine:
    def __init__(
        self,
        path: Path,
        model_id: str,
        *,
        threads: int,
        slots: int,
        max_total_tokens: int | None,
        max_input_tokens: int | None,
    ) -> None:
        total = max_total_tokens or DEFAULT_CONTEXT
        self._info = EngineInfo(
            model_id, "gguf", max_input_tokens or total - 1, total, supports_grammar=True
        )
        self.batches = Batches(max_total_tokens=slots * total)
        self._path, self._threads, self._slots = path, threads, slots
        self._pool = ThreadPoolExecutor(slots, thread_name_prefix="gguf")
        self._heads, self._samples = PrefixGate(), SampleGate()
        self._counting = threading.Lock()
        self._rows = self._row_tokens = 0
        self.prefilled_tokens = 0
        self._special: dict[int, str] = {}
        self._server: Any = None
        self._tokenizer: server.Tokenizer | None = None

    @property
    def info(self) -> EngineInfo:
        return self._info

    async def start(self) -> None:
        key = server.new_key()
        self._server = await asyncio.to_thread(
            server.load,
            self._path,
            threads=self._threads,
            slots=self._slots,
            context=self._info.max_total_tokens,
            key=key,
        )
        self._tokenizer = server.Tokenizer(self._server.listening_address, key)

    async def tokenize(self, text: str, *, special: bool = True) -> Sequence[SimpleToken]:
        assert self._tokenizer is not None
        return await self._tokenizer.pieces(text, special=special)

    async def template(self, conversation: Conversation) -> str:
        assert self._tokenizer is not None
        return await self._tokenizer.template(conversation)

    async def prefill(self, request: ValidGenerateRequest) -> Sequence[Token]:
        """llama.cpp's completions tell nothing about the prompt's tokens."""
        return ()

    async def check_grammar(self, grammar: Grammar) -> None:
        await asyncio.to_thread(grammars.check_grammar, grammar)

    async def submit(self, request: ValidGenerateRequest) -> AsyncGenerator[Token, None]:
        loop = asyncio.get_running_loop()
        inbox: asyncio.Queue[object] = asyncio.Queue()
        closed = threading.Event()

        def hand_over(item: object) -> bool:
            loop.call_soon_threadsafe(inbox.put_nowait, item)
            return closed.is_set()

        with self._samples.expecting(request.prompt):
            work = self._pool.submit(self._generate, request, hand_over, closed)
            work.add_done_callback(lambda _: hand_over(_END))
            try:
                async for token in self._tokens(inbox, work):
                    yield token
            finally:
                closed.set()
                work.cancel()

    async def close(self) -> None:
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)
        if self._tokenizer is not None:
            await self._tokenizer.close()
        self._server = None

    def _generate(
        self, request: ValidGenerateRequest, hand_over: Any, closed: threading.Event
    ) -> None:
        body = completion(request, context=self._info.max_total_tokens)
        with self._row(len(request.prompt_token_ids or ()) + request.max_new_tokens):
            self._share(request.prompt, body)
            if closed.is_set():
                return
            self._run(body, hand_over)

    def _share(self, prompt: str, body: Chunk) -> None:
        """Return when as much of the prompt as others also need has been read once."""

        def read() -> None:
            self._heads.enter(prompt, lambda: self._warm(body))
            self._warm(body)

        if not self._samples.enter(prompt, read):
            self._heads.enter(prompt, lambda: self._warm(body))

    def _warm(self, body: Chunk) -> None:
        """Read a prompt for other slots: a slot's state can be copied once another task begins."""
        reading = {**body, "n_predict": 0, "stream": False}
        reading.pop("grammar", None)
        self._run(reading, lambda _: False)
        self._server.handle_completions({"prompt": NUDGE, "n_predict": 0, "stream": False})

    def _run(self, body: Chunk, hand_over: Callable[[Chunk], bool]) -> None:
        """One task of llama.cpp's; its first answer tells how much of the prompt it has read."""
        told = False

        def counted(chunk: Chunk) -> bool:
            nonlocal told
            if not told and "timings" in chunk:
                told = True
                with self._counting:
                    self.prefilled_tokens += chunk["timings"]["prompt_n"]
            return hand_over(chunk)

        reply = self._server.handle_completions(body, counted)
        if reply is not None:
            counted(reply)

    @contextmanager
    def _row(self, tokens: int) -> Iterator[None]:
        self._resize(1, tokens)
        try:
            yield
        finally:
            self._resize(-1, -tokens)

    def _resize(self, rows: int, tokens: int) -> None:
        with self._counting:
            self._rows += rows
            self._row_tokens += tokens
            self.batches.now(rows=self._rows, tokens=self._row_tokens)

    async def _tokens(
        self, inbox: asyncio.Queue[object], work: Future[None]
    ) -> AsyncGenerator[Token, None]:
        decoder = ChunkDecoder()
        while (item := await inbox.get()) is not _END:
            for token in decoder.feed(cast(Chunk, item)):
                yield replace(token, text=await self._shown(token.id)) if token.special else token
        if not work.cancelled() and (error := work.exception()):
            raise GenerationFailed(str(error)) from error

    async def _shown(self, token_id: int) -> str:
        if token_id not in self._special:
            assert self._tokenizer is not None
            self._special[token_id] = await self._tokenizer.text(token_id)
        return self._special[token_id]


class ChunkDecoder:
    """llama.cpp's stream chunks of one request as tokens.

    It sends nothing for the earlier pieces of a character that spans tokens: they show as a jump
    of the running count and come out with an unknown id. It marks the model's end only in the
    closing chunk, so a token without text waits for the chunk after it.
    """

    def __init__(self) -> None:
        self._seen = 0
        self._held: Token | None = None

    def feed(self, chunk: Chunk) -> Iterator[Token]:
        if "error" in chunk:
            raise GenerationFailed(str(chunk["error"].get("message", chunk["error"])))
        choice = chunk["choices"][0]
        ended = choice["finish_reason"] is not None
        if self._held is not None:
            ends: EngineFinishReason | None = (
                "eos_token" if choice["finish_reason"] == "stop" else None
            )
            yield replace(self._held, ends=ends)
            self._held = None
        usage = chunk.get("usage") or {}
        count = usage.get("completion_tokens", self._seen)
        if not ended:
            count = chunk.get("timings", {}).get("predicted_n", self._seen + 1)
        for _ in range(count - self._seen - (not ended)):
            yield Token(UNKNOWN_TOKEN_ID, "")
        self._seen = count
        if not ended:
            token = one(choice)
            if token.special:
                self._held = token
            else:
                yield token


def one(choice: dict[str, Any]) -> Token:
    entry = choice["logprobs"]["content"][0]
    top = tuple(
        Token(other["id"], other["token"], other["logprob"]) for other in entry["top_logprobs"]
    )
    # Control tokens have no bytes in llama.cpp's output.
    special = not entry["bytes"]
    return Token(entry["id"], choice["text"], entry["logprob"], special=special, top_tokens=top)


def completion(request: ValidGenerateRequest, *, context: int) -> Chunk:
    """llama.cpp's request body for `request`, with every default of its own switched off.

    Stop strings stay here: llama.cpp would cut them from the text, TGI keeps them.
    """
    return {
        "prompt": list(request.prompt_token_ids or ()) or request.prompt,
        "n_predict": request.max_new_tokens,
        "stream": True,
        "timings_per_token": True,
        "n_probs": max(1, request.top_n_tokens),
        "cache_prompt": True,
        "min_p": 0.0,
        "repeat_last_n": context,
        "samplers": ["penalties", "temperature", "top_k", "top_p", "typ_p"],
        **({"grammar": grammars.to_lark(request.grammar)} if request.grammar else {}),
        **_sampling(request.sampling),
    }


def _sampling(sampling: SamplingParams) -> dict[str, float | int]:
    return {
        "temperature": sampling.temperature if sampling.do_sample else 0.0,
        "seed": fold(sampling.seed or 0),
        "top_k": sampling.top_k or 0,
        "top_p": sampling.top_p or 1.0,
        "typical_p": sampling.typical_p or 1.0,
        "repeat_penalty": sampling.repetition_penalty or 1.0,
        "frequency_penalty": sampling.frequency_penalty or 0.0,
        "presence_penalty": sampling.presence_penalty or 0.0,
    }


def fold(seed: int) -> int:
    """A 64-bit seed in llama.cpp's 32 bits, without 2^32 - 1, which means "random" there."""
    return (seed ^ seed >> 32) % (2**32 - 1)
