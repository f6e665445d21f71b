"""Real clients against the real server, in TGI's strict mode and in ours. Those that need other
versions than ours run in environments of their own, built once and kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import venv
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import (
    GenerationError,
    IncompleteGenerationError,
    OverloadedError,
    UnknownError,
    ValidationError,
)

from services.teacher.engines.base import Token, ValidGenerateRequest
from tests.conftest import unavailable
from tests.contract.teacher.test_wire import WORDS, Scripted, serving

CLIENTS = Path(__file__).parents[2] / "clients"
TEXT = "".join(WORDS)
ASKED = [{"role": "user", "content": "hi"}]


class Endless(Scripted):
    """One word, and then nothing until its client leaves."""

    async def submit(self, request: ValidGenerateRequest) -> AsyncGenerator[Token, None]:
        yield Token(0, "one", -0.5)
        await asyncio.Event().wait()


@pytest.fixture(scope="module", params=[False, True], ids=["ours", "strict"])
def strict(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def url(strict: bool) -> Iterator[str]:
    with serving(Scripted(), tgi_strict=strict, return_full_text=False) as address:
        yield address


@pytest.fixture(scope="module")
def full(strict: bool) -> Iterator[str]:
    """A server whose only permit is taken."""
    with serving(Endless(), tgi_strict=strict, max_concurrent_requests=1) as address:
        body = {"inputs": "hi"}
        with httpx2.stream("POST", f"{address}/generate_stream", json=body) as reply:
            lines = reply.iter_lines()
            next(lines)
            yield address


def environment(name: str) -> Path:
    """The Python of an environment with what `tests/clients/<name>.txt` pins."""
    wanted = CLIENTS / f"{name}.txt"
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "qcrd-test-clients"
    mark = hashlib.sha256(wanted.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = cache / f"{name}-{mark}"
    python = folder / "bin/python"
    if not (folder / "complete").exists():
        venv.create(folder, clear=True, with_pip=False)
        command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q"]
        made = subprocess.run([*command, "-r", str(wanted)], capture_output=True, text=True)
        if made.returncode:
            unavailable(f"the environment of {name} ({made.stderr[-300:]})")
        (folder / "complete").touch()
    return python


def run(name: str, *given: str) -> dict[str, Any]:
    command = [str(environment(name)), str(CLIENTS / f"{name}_client.py"), *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def plain(text: str, strict: bool) -> str:
    """What POST / answers: with the prompt in front in strict mode."""
    return f"hi{text}" if strict else text


def test_text_generation(url: str, full: str) -> None:
    """It always says `return_full_text` itself."""
    told = run("text_generation", url, full)
    assert told["text"] == "one two three"
    assert told["tokens"] == ["one", " two", " three"]
    assert (told["prefill"], told["top"], told["reason"]) == (2, [2, 2, 2], "length")
    assert told["streamed"] == ["one", " two", " three", " four"]
    assert told["last"] == "one two three four"
    assert (told["chat"], told["chat_tokens"]) == ("one two three", 3)
    assert told["errors"] == {
        "validation": "ValidationError",
        "generation": "GenerationError",
        "stream": "GenerationError",
        "overloaded": "OverloadedError",
    }


def test_langchain(url: str, strict: bool) -> None:
    told = run("langchain", url)
    assert told["invoked"] == told["again"]
    assert sorted(told["invoked"].removeprefix("hi" if strict else "")) == sorted(TEXT)
    assert sorted("".join(told["streamed"])) == sorted(TEXT + "</s>")
    assert told["invoked"].startswith(told["stopped"])
    assert " two" not in told["stopped"]


def test_huggingface_hub(url: str, full: str, strict: bool) -> None:
    client = InferenceClient(url, timeout=30)
    assert client.text_generation("hi", max_new_tokens=3) == plain("one two three", strict)
    got = client.text_generation("hi", details=True, do_sample=True, seed=5, max_new_tokens=4)
    assert (got.details.seed, got.details.generated_tokens) == (5, 4)
    streamed = list(client.text_generation("hi", stream=True, max_new_tokens=20))
    assert streamed == [*WORDS, "</s>"]
    events = list(client.text_generation("hi", stream=True, details=True, max_new_tokens=2))
    assert [event.index for event in events] == [1, 2]
    assert events[-1].details.input_length == 2
    told = client.chat_completion(ASKED, max_tokens=3, temperature=0)
    assert told.choices[0].message.content == "one two three"
    options = {"include_usage": True}
    chunks = list(client.chat_completion(ASKED, max_tokens=3, stream=True, stream_options=options))
    assert chunks[-1].usage.completion_tokens == 3
    native = InferenceClient(url, provider="hf-inference")
    assert native.get_endpoint_info()["model_id"] == "scripted"
    assert native.health_check()
    # The client has no name for TGI's own word for an incomplete stream.
    for prompt, kind, in_stream in (
        ("fail", GenerationError, GenerationError),
        ("break", IncompleteGenerationError, UnknownError),
    ):
        with pytest.raises(kind):
            client.text_generation(prompt)
        with pytest.raises(in_stream):
            list(client.text_generation(prompt, stream=True))
    with pytest.raises(ValidationError):
        client.text_generation("hi", temperature=-1.0)
    crowded = InferenceClient(full)
    with pytest.raises(OverloadedError):
        crowded.text_generation("hi")
    with pytest.raises(OverloadedError):
        list(crowded.text_generation("hi", stream=True))


def test_huggingface_hub_async(url: str, strict: bool) -> None:
    async def ask() -> None:
        client = AsyncInferenceClient(url, timeout=30)
        asked = (client.text_generation("hi", max_new_tokens=n) for n in range(1, 5))
        texts = await asyncio.gather(*asked)
        assert list(texts) == [plain("".join(WORDS[:n]), strict) for n in range(1, 5)]
        whole = await client.text_generation("hi", details=True, max_new_tokens=3)
        assert [token.text for token in whole.details.tokens] == ["one", " two", " three"]
        stream = await client.text_generation("hi", stream=True, details=True, max_new_tokens=3)
        events = [event async for event in stream]
        assert events[-1].details.finish_reason == "length"
        told = await client.chat_completion(ASKED, max_tokens=3, temperature=0)
        assert told.choices[0].message.content == "one two three"
        chunks = await client.chat_completion(ASKED, max_tokens=3, temperature=0, stream=True)
        said = [chunk.choices[0].delta.content async for chunk in chunks]
        assert said == ["one", " two", " three"]
        native = AsyncInferenceClient(url, provider="hf-inference")
        assert (await native.get_endpoint_info())["model_id"] == "scripted"
        assert await native.health_check()
        with pytest.raises(GenerationError):
            await client.text_generation("fail")

    asyncio.run(ask())


def test_openai(url: str, full: str, strict: bool) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["scripted"]
    made = client.completions.create(model="m", prompt=["a", "b"], max_tokens=3, temperature=0)
    assert sorted(choice.index for choice in made.choices) == [0, 1]
    assert {choice.text for choice in made.choices} == {"one two three"}
    chunks = list(
        client.completions.create(model="m", prompt="a", max_tokens=20, temperature=0, stream=True)
    )
    shown = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert shown == (TEXT + "</s>" if strict else TEXT)
    talked = client.chat.completions.create(
        model="m", messages=ASKED, temperature=0, logprobs=True, top_logprobs=2
    )
    assert (talked.model, talked.choices[0].message.content) == ("m", TEXT)
    assert talked.choices[0].finish_reason == "stop"
    assert len(talked.choices[0].logprobs.content[0].top_logprobs) == 2
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(
            model="m", messages=ASKED, temperature=0, stream=True, stream_options=options
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert (text, chunks[-1].usage.completion_tokens) == (TEXT, len(WORDS) + 1)
    roles = [c.choices[0].delta.role for c in chunks if c.choices]
    assert roles.count("assistant") == (len(roles) if strict else 1)
    with pytest.raises(openai.UnprocessableEntityError):
        client.completions.create(model="m", prompt="a", temperature=-1)
    with pytest.raises(openai.APIStatusError) as failed:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "fail"}])
    assert (failed.value.status_code, failed.value.body) == (
        424,
        "Request failed during generation: out of luck",
    )
    with pytest.raises(openai.APIError, match="out of luck"):
        list(client.completions.create(model="m", prompt="fail", stream=True, temperature=0))
    crowded = openai.OpenAI(base_url=f"{full}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.RateLimitError):
        crowded.completions.create(model="m", prompt="a")


def test_openais_own_forms_are_taken_unless_strict(url: str, strict: bool) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

    def ask() -> str:
        made = client.chat.completions.create(
            model="m", messages=ASKED, temperature=0, top_p=1.0, stop=" two",
            max_completion_tokens=9, logit_bias={"50": 1},
        )  # fmt: skip
        return f"{made.choices[0].message.content}|{made.choices[0].finish_reason}"

    if strict:
        with pytest.raises(openai.UnprocessableEntityError):
            ask()
    else:
        assert ask() == "one two|stop"
