"""Several choices of one prompt, `n` on OpenAI's routes: a scripted engine, and real ones."""

from __future__ import annotations

import json
import socket
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from services.teacher.engines.base import EngineInfo, Token, ValidGenerateRequest
from services.teacher.engines.factory import build_engine
from services.teacher.engines.transformers.engine import TransformersEngine
from services.teacher.settings import EngineSettings
from tests.contract.teacher.test_conformance import ASKED, TOOL, Calling, frames, post
from tests.contract.teacher.test_engines import save
from tests.contract.teacher.test_gguf import made
from tests.contract.teacher.test_wire import EOS, Scripted, generate, serving, wait_for

ROUTES = {"/v1/completions": {"prompt": "hi"}, "/v1/chat/completions": {"messages": ASKED}}
INPUT_TOKENS = {"/v1/completions": 2, "/v1/chat/completions": len("u:hi\na:")}


@dataclass
class Declining(Scripted):
    """Declines every function where its seed is even, and calls one where it is odd."""

    info: EngineInfo = field(
        default_factory=lambda: EngineInfo("scripted", "test", 999, 1000, supports_grammar=True)
    )

    async def submit(self, request: ValidGenerateRequest) -> AsyncGenerator[Token, None]:
        seed = request.sampling.seed or 0
        if request.grammar is None:
            yield Token(1, f"words {seed}", -0.1)
        else:
            name = "weather" if seed % 2 else "no_tool"
            yield Token(1, json.dumps({"function": {"_name": name, "seed": seed}}), -0.1)
        yield EOS


@pytest.fixture(scope="module")
def engine() -> Calling:
    return Calling()


@pytest.fixture(scope="module")
def url(engine: Calling) -> Iterator[str]:
    with serving(engine, max_concurrent_requests=16) as address:
        yield address


def text_of(choice: Any) -> str:
    return str(choice["text"] if "text" in choice else choice["message"]["content"])


def texts(body: Any) -> list[str]:
    """Of a whole answer, by index."""
    choices = body["choices"]
    assert [choice["index"] for choice in choices] == list(range(len(choices)))
    return [text_of(choice) for choice in choices]


def streamed(got: list[Any]) -> tuple[list[str], list[str]]:
    """Texts and reasons of a stream's choices by index."""
    text: dict[int, str] = defaultdict(str)
    reasons: dict[int, str] = {}
    for choice in (choice for frame in got for choice in frame["choices"]):
        assert choice["index"] not in reasons
        delta = choice.get("delta") or {"content": choice.get("text")}
        text[choice["index"]] += delta.get("content") or ""
        if choice["finish_reason"]:
            reasons[choice["index"]] = choice["finish_reason"]
    return [text[i] for i in sorted(text)], [reasons[i] for i in sorted(reasons)]


@pytest.mark.parametrize("path", ROUTES)
def test_each_choice_draws_with_the_next_seed(url: str, path: str) -> None:
    asked = {**ROUTES[path], "max_tokens": 4}
    whole = post(url, path, **asked, n=5, seed=7).json()
    single = [post(url, path, **asked, seed=7 + i).json() for i in range(5)]
    assert texts(whole) == [texts(each)[0] for each in single]
    assert len(set(texts(whole))) > 1
    read = INPUT_TOKENS[path]
    assert whole["usage"] == {
        "prompt_tokens": read,
        "completion_tokens": 20,
        "total_tokens": read + 20,
    }
    assert texts(post(url, path, **asked, n=5, seed=7).json()) == texts(whole)


@pytest.mark.parametrize("path", ROUTES)
def test_choices_are_streamed_as_they_come(url: str, path: str) -> None:
    asked = {**ROUTES[path], "n": 4, "seed": 2**64 - 2, "stop": [" two"]}
    whole = post(url, path, **asked).json()
    got = frames(url, path, **asked, stream_options={"include_usage": True})
    assert streamed(got)[0] == texts(whole)
    assert streamed(got)[1] == ["stop"] * 4
    order = [frame["choices"][0]["index"] for frame in got if frame["choices"]]
    assert order != sorted(order)
    assert got[-1]["usage"] == whole["usage"]
    ends = [frame["usage"] for frame in got[:-1] if frame.get("usage")]
    assert sum(each["completion_tokens"] for each in ends) in (
        0,
        whole["usage"]["completion_tokens"],
    )


def test_each_prompt_of_a_batch_has_its_choices(url: str) -> None:
    asked = {"prompt": ["a", "bc"], "n": 2, "max_tokens": 2, "seed": 3}
    body = post(url, "/v1/completions", **asked).json()
    assert sorted(choice["index"] for choice in body["choices"]) == [0, 1, 2, 3]
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 8, "total_tokens": 11}
    got = frames(url, "/v1/completions", **asked)
    by_index = {choice["index"]: choice["text"] for choice in body["choices"]}
    assert streamed(got)[0] == [by_index[i] for i in range(4)]
    assert [frame["usage"]["completion_tokens"] for frame in got if "usage" in frame] == [4, 4]


@pytest.mark.parametrize(
    ("path", "asked", "said"),
    [
        ("/v1/completions", {"n": 0}, "`n` must be >= 1 and <= 16. Given: 0"),
        ("/v1/chat/completions", {"n": 17}, "`n` must be >= 1 and <= 16. Given: 17"),
        ("/v1/completions", {"prompt": ["a", "b"], "n": 9}, "must be <= 16 together. Given: 18"),
        ("/v1/completions", {"best_of": 3}, "`best_of` is not supported on this route"),
        ("/v1/completions", {"n": 2, "best_of": 3}, "`best_of` is not supported on this route"),
        ("/v1/completions", {"echo": True}, "`echo` is not supported"),
        ("/v1/completions", {"logprobs": 2}, "`logprobs` is not supported on this route"),
    ],
)
def test_what_is_not_done_is_refused_by_name(
    url: str, path: str, asked: dict[str, Any], said: str
) -> None:
    reply = post(url, path, **{**ROUTES[path], **asked})
    assert (reply.status_code, reply.json()["error_type"]) == (422, "validation")
    assert said in reply.json()["error"]


@pytest.mark.parametrize("asked", [{"best_of": 1}, {"n": 2, "best_of": 2}, {"echo": False}])
def test_what_changes_nothing_is_taken(url: str, asked: dict[str, Any]) -> None:
    body = post(url, "/v1/completions", prompt="hi", max_tokens=2, **asked).json()
    assert len(texts(body)) == asked.get("n", 1)


def test_a_prediction_is_one_text(url: str) -> None:
    reply = post(url, "/vertex", instances=[{"messages": ASKED, "n": 2}])
    assert (reply.status_code, reply.json()["error_type"]) == (422, "validation")


def test_strict_mode_ignores_what_tgi_ignores() -> None:
    ignored = {"n": 3, "best_of": 7, "echo": True, "logprobs": 1, "grammar": 5}
    with serving(Calling(), tgi_strict=True) as url:
        for path in ("/v1/completions", "/invocations"):
            assert len(texts(post(url, path, prompt="hi", **ignored).json())) == 1
        assert len(texts(post(url, "/v1/chat/completions", messages=ASKED, n=0).json())) == 1
        assert post(url, "/vertex", instances=[{"messages": ASKED, "n": 0}]).status_code == 200
        assert "max_choices" not in httpx2.get(f"{url}/info").json()


def test_info_tells_the_most_choices(url: str) -> None:
    assert httpx2.get(f"{url}/info").json()["max_choices"] == 16


def metric(url: str, name: str) -> float:
    lines = httpx2.get(f"{url}/metrics").text.splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(f"{name} ")), 0.0)


def test_a_choice_counts_as_a_generation_and_takes_a_permit(url: str) -> None:
    names = ("tgi_request_count", "tgi_request_success", "tgi_request_generated_tokens_count")
    before = [metric(url, name) for name in names]
    post(url, "/v1/completions", prompt="hi", n=5)
    assert [metric(url, name) for name in names] == [count + 5 for count in before]
    failures = 'tgi_request_failure{err="overloaded"}'
    with serving(Scripted(), max_concurrent_requests=4) as small:
        assert post(small, "/v1/completions", prompt="hi", n=4).status_code == 200
        request = json.dumps({"inputs": "endless", "parameters": {}}).encode()
        with open_connection(small, "/generate", request):
            wait_for(lambda: metric(small, "tgi_batch_current_size") == 1)
            reply = post(small, "/v1/completions", prompt="hi", n=4)
            assert (reply.status_code, reply.json()["error_type"]) == (429, "overloaded")
            assert metric(small, failures) == 4


def open_connection(url: str, path: str, body: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])))
    head = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return connection


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ROUTES)
def test_a_client_that_leaves_cancels_all_choices(
    url: str, engine: Calling, path: str, stream: bool
) -> None:
    asked = {"prompt": "endless", "messages": [{"role": "user", "content": "endless"}]}
    body = {"temperature": 0, "n": 3, "stream": stream, **asked}
    with open_connection(url, path, json.dumps(body).encode()):
        wait_for(lambda: engine.open == 3)
    wait_for(lambda: engine.open == 0)


@pytest.mark.parametrize("path", ROUTES)
def test_one_choice_that_fails_ends_them_all(url: str, engine: Calling, path: str) -> None:
    asked = {"prompt": "fail", "messages": [{"role": "user", "content": "fail"}], "n": 3}
    reply = post(url, path, **asked)
    assert (reply.status_code, reply.json()["error_type"]) == (424, "generation")
    assert "out of luck" in frames(url, path, **asked)[-1]["error"]["message"]
    assert engine.open == 0


def test_each_choice_calls_a_function_or_answers_in_words() -> None:
    asked = {"messages": ASKED, "tools": [TOOL], "n": 3, "seed": 1}
    with serving(Declining()) as url:
        choices = post(url, "/v1/chat/completions", **asked).json()["choices"]
        got = frames(url, "/v1/chat/completions", **asked)
    assert [choice["finish_reason"] for choice in choices] == ["tool_calls", "stop", "tool_calls"]
    calls = [choice["message"].get("tool_calls") for choice in choices]
    assert [call and call[0]["function"]["arguments"] for call in calls] == [
        '{"seed":1}',
        None,
        '{"seed":3}',
    ]
    assert choices[1]["message"]["content"] == "words 2"
    assert streamed(got) == (["", "words 2", ""], ["tool_calls", "stop", "tool_calls"])


@pytest.fixture(scope="module")
def gguf() -> Iterator[tuple[str, Any]]:
    engine = made()
    with serving(engine) as address:
        yield address, engine


@pytest.mark.parametrize("path", ROUTES)
def test_llama_cpp_reads_a_prompt_once_for_five_choices(gguf: tuple[str, Any], path: str) -> None:
    """And counts each of them: its own server's `usage` is of one."""
    url, engine = gguf
    question = f"{path}: " + "the apple is red and two girls have seven books; " * 12
    asked = {"max_tokens": 8, "temperature": 0.9, "seed": 11}
    asked |= {"prompt": question, "messages": [{"role": "user", "content": question}]}
    before = engine.prefilled_tokens
    body = httpx2.post(f"{url}{path}", json={**asked, "n": 5}, timeout=60).json()
    length = body["usage"]["prompt_tokens"]
    assert length > 100
    assert length <= engine.prefilled_tokens - before <= 1.1 * length
    assert len(set(texts(body))) > 1
    single = [
        httpx2.post(f"{url}{path}", json={**asked, "seed": 11 + i}, timeout=60).json()
        for i in range(5)
    ]
    assert texts(body) == [texts(each)[0] for each in single]
    assert body["usage"]["completion_tokens"] == sum(
        each["usage"]["completion_tokens"] for each in single
    )
    assert httpx2.get(f"{url}/info").json()["max_choices"] == 8


def test_a_choice_that_has_reached_its_stop_string_writes_no_more(gguf: tuple[str, Any]) -> None:
    url, _ = gguf
    asked = {"prompt": "1, 2, 3,", "temperature": 0, "max_tokens": 40, "stop": [" 7"], "n": 3}
    body = httpx2.post(f"{url}/v1/completions", json=asked, timeout=60).json()
    assert all(text.endswith(" 7") for text in texts(body))
    assert body["usage"]["completion_tokens"] < 40


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_the_local_engine_draws_choices_too(tmp_path: Path, kind: str) -> None:
    """A decoder-only model reads the prompt once; an encoder-decoder once for each choice."""
    settings = EngineSettings(
        model_id=str(save(tmp_path, kind)), max_total_tokens=96, teacher_slots=6
    )
    engine = build_engine(settings)
    assert isinstance(engine, TransformersEngine)
    with serving(engine) as url:
        asked = {"prompt": "a prompt of some thirty letters", "max_tokens": 6, "seed": 5}
        body = post(url, "/v1/completions", **asked, n=5).json()
        if kind == "llama":
            # Each choice reads the prompt's last token for itself.
            assert engine.prefilled_tokens == body["usage"]["prompt_tokens"] + 4
        single = [post(url, "/v1/completions", **{**asked, "seed": 5 + i}).json() for i in range(5)]
        assert texts(body) == [texts(each)[0] for each in single]
        assert httpx2.get(f"{url}/info").json()["max_choices"] == 6
        assert generate(url, "a", max_new_tokens=1).status_code == 200
