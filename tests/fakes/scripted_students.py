"""A server of students by script, on a real socket: it says what a test tells it to, piece by
piece, and hears when its client hangs up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any

GOOD = {"id": "chatcmpl-1", "object": "chat.completion", "choices": []}


class Connection:
    """One request, and the means to answer it."""

    def __init__(
        self, head: str, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        first, *lines = head.strip().split("\r\n")
        self.path = first.split(" ")[1]
        self.headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
        self.body: dict[str, Any] = json.loads(body)
        self._reader, self._writer = reader, writer

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}", "connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self._writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + body)

    def begin_stream(self) -> None:
        self._writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )

    def piece(self, data: bytes) -> None:
        """An empty one ends the stream."""
        self._writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    async def sent(self) -> None:
        await self._writer.drain()

    def cut(self) -> None:
        self._writer.transport.abort()

    async def hangs_up(self) -> None:
        """Returns when the client has closed the connection."""
        with contextlib.suppress(ConnectionError):
            while await self._reader.read(1):
                pass


Script = Callable[[Connection], Awaitable[None]]


async def good(connection: Connection) -> None:
    connection.answer(200, json.dumps(GOOD).encode(), content_type="application/json")


class ScriptedStudents:
    def __init__(self, script: Script = good) -> None:
        self.script = script
        self.asked: list[Connection] = []
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
            connection = Connection(head, await reader.readexactly(length), reader, writer)
            self.asked.append(connection)
            await self.script(connection)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
