"""A teacher behind TGI's protocol that answers at once: `python -m benchmarks.scale.quick_teacher
PORT`. Its outputs are those of `make_output`, so that they can be written without asking it."""

from __future__ import annotations

import asyncio
import json
import re
import sys

from qcrd.method.answer_reading.marks import ANSWER_TAG

MODEL = "benchmark/quick"
TOKEN = {"id": 1, "text": "x", "logprob": -0.1, "special": False}
PROMPT_TOKENS, ANSWER_TOKENS = 30, 40
NUMBER = re.compile(r"What is (\d+) \+ 1\?\s*\S*\s*$")


def make_question(number: int) -> str:
    return f"What is {number} + 1?"


def make_output(number: int, way: int) -> str:
    """Of five ways none, one or two are wrong, so that there are negatives."""
    answer = number + (way % 5 >= number % 3)
    return f" Way {way}: one more than {number} is {answer}.\n{ANSWER_TAG} {answer}"


def _answer(body: bytes) -> bytes:
    asked = json.loads(body)
    found = NUMBER.search(asked["inputs"])
    assert found is not None, "a question of another benchmark"
    seed = asked["parameters"]["seed"]
    details = {
        "finish_reason": "eos_token",
        "seed": seed,
        "generated_tokens": ANSWER_TOKENS,
        "input_length": PROMPT_TOKENS,
    }
    text = make_output(int(found[1]), seed % 1000)
    event = {"index": 1, "token": TOKEN, "generated_text": text, "details": details}
    data = b"data: " + json.dumps(event).encode() + b"\n\n"
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n"
    return head % len(data) + data


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    info = json.dumps({"model_id": MODEL, "model_sha": None}).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    try:
        while True:
            lines = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = re.search(rb"content-length: (\d+)", lines)
            body = await reader.readexactly(int(length[1]) if length else 0)
            writer.write(head % len(info) + info if lines.startswith(b"get") else _answer(body))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(_serve, "127.0.0.1", int(sys.argv[1]))
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
