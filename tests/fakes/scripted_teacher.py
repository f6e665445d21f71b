"""A TGI server by script: it answers, refuses, breaks off and dies when a test says so.

Real sockets and HTTP/1.1 with kept connections, so that the client under test is the real one.
`python -m tests.fakes.scripted_teacher PORT RECORD` is one as a process, for tests that kill it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Literal

from tests.things import answered

Mood = Literal[
    "ok",
    "busy",
    "busy_in_stream",
    "cut",
    "cut_after",
    "engine",
    "too_long",
    "filtered",
    "refused",
    "away",
]

PROMPT_TOKENS, ANSWER_TOKENS = 11, 7
"""Of every request, by what the last event of an answer says."""
ERRORS: dict[str, tuple[str, str]] = {
    "busy": ("Model is overloaded", "overloaded"),
    "busy_in_stream": ("Model is overloaded", "overloaded"),
    "engine": ("Request failed during generation: out of memory", "generation"),
    "filtered": ("Content filtered: the upstream withholds its answer", "content_filter"),
    "refused": ("Input validation error: upstream answered 400: no such thing", "validation"),
    "away": ("Upstream does not answer: upstream: ConnectError", "upstream_unreachable"),
    "too_long": ("Input validation error: `inputs` must have less than 8 tokens", "validation"),
}


Told = Literal["started", "finished"]


def _untold(what: Told, asked: dict[str, Any]) -> None:
    """Nobody listens."""


class ScriptedTeacher:
    """`mood(i)` is what happens to request i (from 0); `answer(prompt, seed)` is the text.

    `counts` are what its details say of tokens; `tokenize` counts those of a text, None: 404;
    `limits` are in its /info.

    `tell` hears of every generation: that it started, and that it finished, before the client does.
    `begun` tokens are streamed before `delay` and the rest.
    """

    def __init__(
        self,
        answer: Callable[[str, int], str],
        *,
        mood: Callable[[int], Mood] = lambda number: "ok",
        delay: float = 0.0,
        model: str = "scripted/teacher",
        finish_reason: str = "eos_token",
        retry_after: int | None = None,
        counts: dict[str, Any] | None = None,
        tokenize: Callable[[str], int] | None = None,
        limits: dict[str, int] | None = None,
        port: int = 0,
        tell: Callable[[Told, dict[str, Any]], None] = _untold,
        begun: int = 1,
    ) -> None:
        self.answer, self.mood, self.delay, self.model = answer, mood, delay, model
        self.finish_reason, self.retry_after, self.tell = finish_reason, retry_after, tell
        self.counts = (
            {"generated_tokens": ANSWER_TOKENS, "input_length": PROMPT_TOKENS}
            if counts is None
            else counts
        )
        self.begun, self.tokenize, self.limits = begun, tokenize, limits or {}
        self.tokenized: list[str] = []
        self.healthy, self.health_checks = True, 0
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answered = 0
        self.generated = 0
        """Tokens that it read and wrote, also for answers that broke off."""
        self.flying = self.most_flying = 0
        self.port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._call(self._start())

    def kill(self) -> None:
        """Connections break, and new ones are refused."""
        self._call(self._kill())

    def kill_soon(self) -> None:
        """The same, out of `mood` or `answer`."""
        self._loop.create_task(self._kill())

    def close(self) -> None:
        self.kill()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _kill(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while await self._one(reader, writer):
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            with contextlib.suppress(Exception):
                writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if first.startswith("GET /info"):
            info = {"model_id": self.model, "model_sha": None, **self.limits}
            _respond(writer, 200, json.dumps(info).encode())
            return True
        if first.startswith("GET /health"):
            self.health_checks += 1
            _respond(writer, 200 if self.healthy else 503, b"")
            return True
        if first.startswith("POST /tokenize"):
            if self.tokenize is None:
                _respond(writer, 404, b"")
                return True
            self.tokenized.append(json.loads(body)["inputs"])
            tokens = [TOKEN] * self.tokenize(self.tokenized[-1])
            _respond(writer, 200, json.dumps(tokens).encode())
            return True
        self.headers.append(headers)
        self.requests.append(json.loads(body))
        self.flying += 1
        self.most_flying = max(self.most_flying, self.flying)
        try:
            return await self._generate(json.loads(body), len(self.requests) - 1, writer)
        finally:
            self.flying -= 1

    async def _generate(
        self, asked: dict[str, Any], number: int, writer: asyncio.StreamWriter
    ) -> bool:
        mood = self.mood(number)
        if mood in ERRORS:
            text, kind = ERRORS[mood]
            error = json.dumps({"error": text, "error_type": kind}).encode()
            if mood == "busy":
                _respond(writer, 429, error, retry_after=self.retry_after)
            else:
                _stream(writer)
                _chunk(writer, b"data:" + error + b"\n\n")
                _chunk(writer, b"")
            return True
        self.tell("started", asked)
        _stream(writer)
        self.generated += PROMPT_TOKENS + self.begun
        for index in range(1, self.begun + 1):
            event = {"index": index, "token": TOKEN, "generated_text": None, "details": None}
            _event(writer, event)
        await asyncio.sleep(self.delay)
        if mood == "cut":
            writer.transport.abort()
            return False
        seed = asked["parameters"]["seed"]
        details = {
            "finish_reason": self.finish_reason,
            "seed": seed,
            **self.counts,
        }
        text = self.answer(asked["inputs"], seed)
        self.generated += ANSWER_TOKENS - self.begun
        self.tell("finished", asked)
        _event(writer, {"index": 2, "token": TOKEN, "generated_text": text, "details": details})
        if mood == "cut_after":
            writer.transport.abort()
            return False
        self.answered += 1  # before the client can know it
        _chunk(writer, b"")
        return True


TOKEN = {"id": 1, "text": "x", "logprob": -0.1, "special": False}


def _respond(
    writer: asyncio.StreamWriter, status: int, body: bytes, *, retry_after: int | None = None
) -> None:
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    if retry_after is not None:
        head += f"\r\nretry-after: {retry_after}"
    writer.write(f"{head}\r\n\r\n".encode() + body)


def _stream(writer: asyncio.StreamWriter) -> None:
    writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )


def _event(writer: asyncio.StreamWriter, event: dict[str, Any]) -> None:
    _chunk(writer, b"data: " + json.dumps(event).encode() + b"\n\n")


def _chunk(writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(f"{len(body):x}\r\n".encode() + body + b"\r\n")


def recorder(path: Path) -> Callable[[Told, dict[str, Any]], None]:
    """Appends each generation to `path` as one write, which outlives the process that made it."""

    def tell(what: Told, asked: dict[str, Any]) -> None:
        drawn = asked["parameters"]
        line = {
            "at": time.time(),
            "what": what,
            "prompt": asked["inputs"],
            "seed": drawn["seed"],
            "room": drawn["max_new_tokens"],
        }
        with path.open("a") as record:
            record.write(json.dumps(line) + "\n")

    return tell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("record", type=Path, help="file to which every generation is appended")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that one takes")
    given = parser.parse_args()
    teacher = ScriptedTeacher(
        answered, delay=given.delay, port=given.port, tell=recorder(given.record)
    )
    print(f"answering at {teacher.url}", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
