"""One loaded copy of a GGUF model: its slots, its worker threads, and the prompts it reads once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from services.teacher.engines.copies import Copy, share_slots
from services.teacher.engines.llama_cpp import server
from services.teacher.engines.llama_cpp.prefix_sharing import PrefixGate, SampleGate

Chunk = dict[str, Any]
SendChunk = Callable[[Chunk], bool]
"""Hands on what llama.cpp says; True stops the request."""
# A prompt of one token: any task makes llama.cpp keep the states of idle slots.
CACHE_FLUSH_PROMPT = "a"


class Replica(Copy):
    """`slots` sequences at a time, each a task of llama.cpp in a worker thread of its own."""

    def __init__(self, slots: int, load_server: Callable[..., Any] = server.load_server) -> None:
        super().__init__(slots)
        self._load_server = load_server
        self.prefilled_tokens = 0
        self._pool = ThreadPoolExecutor(slots, thread_name_prefix="gguf")
        self._prefix_gate, self._sample_gate = PrefixGate(), SampleGate()
        self._count_lock = threading.Lock()
        self._server: Any = None

    def load(self, path: Path, *, threads: int, context: int, cache_mib: int, key: str) -> str:
        """Load the model, which takes seconds; the URL of its tokenizer. `Invalid` when llama.cpp
        cannot run the file."""
        self._server = self._load_server(
            path,
            threads=threads,
            slots=self.slots,
            context=context,
            api_key=key,
            cache_mib=cache_mib,
        )
        return str(self._server.listening_address)

    @contextmanager
    def track_request(self, prompt: str) -> Iterator[None]:
        with super().track_request(prompt), self._sample_gate.track_request(prompt):
            yield

    def submit(self, work: Callable[[], None]) -> Future[None]:
        """`work` in a thread of this copy's, when a slot is free."""
        return self._pool.submit(work)

    def complete(
        self, prompt: str, body: Chunk, send: SendChunk, is_closed: Callable[[], bool]
    ) -> None:
        """Run `body` of `prompt`. Blocks: for a worker thread."""
        self._prefill_shared(prompt, body)
        if not is_closed():
            self._run(body, send)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._server = None

    def _prefill_shared(self, prompt: str, body: Chunk) -> None:
        """Return when the part of the prompt that other requests share has been read once."""

        def prefill() -> None:
            self._prefix_gate.wait_for_prefill(prompt, lambda: self._prefill(body))
            self._prefill(body)

        if not self._sample_gate.wait_for_prefill(prompt, prefill):
            self._prefix_gate.wait_for_prefill(prompt, lambda: self._prefill(body))

    def _prefill(self, body: Chunk) -> None:
        """Read a prompt for other slots: a slot's state can be copied once another task begins."""
        prefill_body = {**body, "n_predict": 0, "stream": False}
        prefill_body.pop("grammar", None)
        self._run(prefill_body, lambda _: False)
        self._server.handle_completions(
            {"prompt": CACHE_FLUSH_PROMPT, "n_predict": 0, "stream": False}
        )

    def _run(self, body: Chunk, send: SendChunk) -> None:
        """One task of llama.cpp; its first response reports how much of the prompt it has read."""
        is_counted = False

        def count_and_send(chunk: Chunk) -> bool:
            nonlocal is_counted
            if not is_counted and "timings" in chunk:
                is_counted = True
                with self._count_lock:
                    self.prefilled_tokens += chunk["timings"]["prompt_n"]
            return send(chunk)

        response = self._server.handle_completions(body, count_and_send)
        if response is not None:
            count_and_send(response)


def make_replicas(
    count: int, slots: int, load_server: Callable[..., Any] = server.load_server
) -> list[Replica]:
    return [Replica(share, load_server) for share in share_slots(slots, count)]
