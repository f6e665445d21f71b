"""GGUF files on llama.cpp: continuous batching over the slots of one or several loaded copies, one
worker thread per slot.

A worker blocks inside llama.cpp, which calls back with one chunk per token; the callback hands it
to the event loop and, once the stream was closed, asks llama.cpp to stop by returning True.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Future
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
from services.teacher.engines.copies import choose_copy
from services.teacher.engines.llama_cpp import server
from services.teacher.engines.llama_cpp.replica import (
    Chunk,
    Replica,
    SendChunk,
    make_replicas,
)
from services.teacher.errors import GenerationFailed
from services.teacher.metrics.batches import BatchMetrics

# Enough for a few-shot prompt and its reasoning; 32 sequences of a 135M model then take 0.75 GB.
DEFAULT_CONTEXT = 1024
_STREAM_END = object()


class LlamaCppEngine:
    def __init__(
        self,
        path: Path,
        model_id: str,
        *,
        threads: int,
        slots: int,
        replicas: int = 1,
        max_total_tokens: int | None,
        max_input_tokens: int | None,
        load_server: Callable[..., Any] = server.load_server,
    ) -> None:
        total = max_total_tokens or DEFAULT_CONTEXT
        self._info = EngineInfo(
            model_id,
            "gguf",
            max_input_tokens or total - 1,
            total,
            supports_grammar=True,
            max_choices=slots,
        )
        self.batch_metrics = BatchMetrics(max_total_tokens=slots * total)
        self._path, self._threads = path, threads
        self._replicas = make_replicas(replicas, slots, load_server)
        self._count_lock = threading.Lock()
        self._running_requests = self._running_tokens = 0
        self._special_token_texts: dict[int, str] = {}
        self._tokenizer: server.TokenizerClient | None = None

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def prefilled_tokens(self) -> int:
        return sum(replica.prefilled_tokens for replica in self._replicas)

    async def start(self) -> None:
        key = server.generate_api_key()
        urls = [
            await asyncio.to_thread(
                replica.load,
                self._path,
                threads=self._threads,
                context=self._info.max_total_tokens,
                cache_mib=server.PROMPT_CACHE_MIB // len(self._replicas),
                key=key,
            )
            for replica in self._replicas
        ]
        self._tokenizer = server.TokenizerClient(urls[0], key)

    async def tokenize(
        self, text: str, *, add_special_tokens: bool = True
    ) -> Sequence[SimpleToken]:
        assert self._tokenizer is not None
        return await self._tokenizer.tokenize(text, add_special_tokens=add_special_tokens)

    async def apply_chat_template(self, conversation: Conversation) -> str:
        assert self._tokenizer is not None
        return await self._tokenizer.apply_chat_template(conversation)

    async def score_prompt(self, request: ValidGenerateRequest) -> Sequence[Token]:
        """None: llama.cpp's completions report nothing about the prompt's tokens."""
        return ()

    async def check_grammar(self, grammar: Grammar) -> None:
        await asyncio.to_thread(grammars.check_grammar, grammar)

    async def submit(self, request: ValidGenerateRequest) -> AsyncGenerator[Token, None]:
        loop = asyncio.get_running_loop()
        inbox: asyncio.Queue[object] = asyncio.Queue()
        closed = threading.Event()

        def send(item: object) -> bool:
            loop.call_soon_threadsafe(inbox.put_nowait, item)
            return closed.is_set()

        replica = choose_copy(self._replicas, request.prompt)
        with replica.track_request(request.prompt):
            future = replica.submit(lambda: self._generate(replica, request, send, closed))
            future.add_done_callback(lambda _: send(_STREAM_END))
            try:
                async for token in self._stream_tokens(inbox, future):
                    yield token
            finally:
                closed.set()
                future.cancel()

    async def close(self) -> None:
        for replica in self._replicas:
            await asyncio.to_thread(replica.close)
        if self._tokenizer is not None:
            await self._tokenizer.close()

    def _generate(
        self,
        replica: Replica,
        request: ValidGenerateRequest,
        send: SendChunk,
        closed: threading.Event,
    ) -> None:
        body = build_completion_body(request, context=self._info.max_total_tokens)
        with self._track_request(len(request.prompt_token_ids or ()) + request.max_new_tokens):
            replica.complete(request.prompt, body, send, closed.is_set)

    @contextmanager
    def _track_request(self, tokens: int) -> Iterator[None]:
        self._update_batch(1, tokens)
        try:
            yield
        finally:
            self._update_batch(-1, -tokens)

    def _update_batch(self, requests: int, tokens: int) -> None:
        with self._count_lock:
            self._running_requests += requests
            self._running_tokens += tokens
            self.batch_metrics.set_current_batch(
                self, size=self._running_requests, max_tokens=self._running_tokens
            )

    async def _stream_tokens(
        self, inbox: asyncio.Queue[object], future: Future[None]
    ) -> AsyncGenerator[Token, None]:
        decoder = ChunkDecoder()
        while (item := await inbox.get()) is not _STREAM_END:
            for token in decoder.feed(cast(Chunk, item)):
                yield (
                    replace(token, text=await self._get_special_text(token.id))
                    if token.special
                    else token
                )
        if not future.cancelled() and (error := future.exception()):
            raise GenerationFailed(str(error)) from error

    async def _get_special_text(self, token_id: int) -> str:
        if token_id not in self._special_token_texts:
            assert self._tokenizer is not None
            self._special_token_texts[token_id] = await self._tokenizer.decode_token(token_id)
        return self._special_token_texts[token_id]


class ChunkDecoder:
    """llama.cpp's stream chunks of one request as tokens.

    It sends nothing for the earlier pieces of a character that spans tokens: they show as a jump
    of the running count and come out with an unknown id. It marks the end token only in the
    closing chunk, so a token without text waits for the chunk after it.
    """

    def __init__(self) -> None:
        self._token_count = 0
        self._pending: Token | None = None

    def feed(self, chunk: Chunk) -> Iterator[Token]:
        if "error" in chunk:
            raise GenerationFailed(str(chunk["error"].get("message", chunk["error"])))
        choice = chunk["choices"][0]
        is_last = choice["finish_reason"] is not None
        if self._pending is not None:
            finish_reason: EngineFinishReason | None = (
                "eos_token" if choice["finish_reason"] == "stop" else None
            )
            yield replace(self._pending, finish_reason=finish_reason)
            self._pending = None
        usage = chunk.get("usage") or {}
        count = usage.get("completion_tokens", self._token_count)
        if not is_last:
            count = chunk.get("timings", {}).get("predicted_n", self._token_count + 1)
        for _ in range(count - self._token_count - (not is_last)):
            yield Token(UNKNOWN_TOKEN_ID, "")
        self._token_count = count
        if not is_last:
            token = parse_token(choice)
            if token.special:
                self._pending = token
            else:
                yield token


def parse_token(choice: dict[str, Any]) -> Token:
    entry = choice["logprobs"]["content"][0]
    top_tokens = tuple(
        Token(other["id"], other["token"], other["logprob"]) for other in entry["top_logprobs"]
    )
    # Control tokens have no bytes in llama.cpp's output.
    special = not entry["bytes"]
    return Token(
        entry["id"], choice["text"], entry["logprob"], special=special, top_tokens=top_tokens
    )


def build_completion_body(request: ValidGenerateRequest, *, context: int) -> Chunk:
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
        **_build_sampling_options(request.sampling),
    }


def _build_sampling_options(sampling: SamplingParams) -> dict[str, float | int]:
    return {
        "temperature": sampling.temperature if sampling.do_sample else 0.0,
        "seed": fold_seed(sampling.seed or 0),
        "top_k": sampling.top_k or 0,
        "top_p": sampling.top_p or 1.0,
        "typical_p": sampling.typical_p or 1.0,
        "repeat_penalty": sampling.repetition_penalty or 1.0,
        "frequency_penalty": sampling.frequency_penalty or 0.0,
        "presence_penalty": sampling.presence_penalty or 0.0,
    }


def fold_seed(seed: int) -> int:
    """A 64-bit seed in llama.cpp's 32 bits, without 2^32 - 1, which means "random" there."""
    return (seed ^ seed >> 32) % (2**32 - 1)
