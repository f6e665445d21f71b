"""Upstreams that say less than ours: no usage, no reason, no choice, no words at all."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from qcrd.errors import Invalid
from services.teacher.engines.factory import build_engine
from services.teacher.settings import EngineSettings
from tests.contract.teacher.test_wire import events, generate, serving, wait_for
from tests.contract.teacher.upstream.test_upstream import chunk, served

USAGE = {"prompt_tokens": 70, "completion_tokens": 30}
DONE = "data: [DONE]\n\n"
FILTERED = {"error": {"message": "try another prompt", "code": "content_filter", "param": "prompt"}}
TOO_LONG = {"error": {"message": "maximum context length is 9 tokens", "type": "BadRequestError"}}


def usage(counts: dict[str, Any] | None = None) -> str:
    return f"data: {json.dumps({'choices': [], 'usage': counts or USAGE})}\n\n"


def end(reason: str, **more: Any) -> str:
    return chunk({"text": "", "finish_reason": reason, **more})


@dataclass
class Terse:
    """An OpenAI-compatible upstream that streams `lines`; `tokenize` is what its route answers."""

    lines: list[str]
    status: int = 200
    body: dict[str, Any] = field(default_factory=dict)
    tokenize: dict[str, Any] | None = None
    endless: bool = False
    models: list[dict[str, Any]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    counted: list[dict[str, Any]] = field(default_factory=list)
    sent: int = 0
    left: bool = False

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v1/models")
        async def models() -> dict[str, Any]:
            return {"object": "list", "data": self.models}

        @app.post("/tokenize")
        async def tokenize(request: Request) -> Response:
            self.counted.append(await request.json())
            return JSONResponse(self.tokenize or {}, 200 if self.tokenize else 404)

        @app.post("/v1/completions")
        async def complete(request: Request) -> Response:
            self.calls.append(await request.json())
            if self.status != 200:
                return JSONResponse(self.body, self.status)
            return StreamingResponse(self.stream(request), media_type="text/event-stream")

        return app

    async def stream(self, request: Request) -> AsyncIterator[str]:
        try:
            for line in self.lines:
                yield line
            while self.endless and not await request.is_disconnected():
                self.sent += 1
                yield chunk({"text": " more"})
        finally:
            self.left = True


@contextmanager
def before(far: Terse, **settings: Any) -> Iterator[str]:
    """A teacher in front of `far`."""
    with served(far.app()) as address:
        engine = build_engine(EngineSettings(teacher_upstream_url=address, **settings))
        with serving(engine) as url:
            yield url


def ask(far: Terse, prompt: str = "a prompt of 24 bytes ...", **parameters: Any) -> dict[str, Any]:
    """The last event of a stream, whose whole text is the plain answer's too."""
    with before(far) as url:
        last = events(url, prompt, details=True, **parameters)[-1]
        if "error" not in last:
            whole = generate(url, prompt, details=True, **parameters).json()
            assert whole["generated_text"] == last["generated_text"]
            assert whole["details"]["generated_tokens"] == last["details"]["generated_tokens"]
            assert whole["details"].get("estimated") == last["details"].get("estimated")
    return last


def test_stop_strings_go_upstream_and_its_usage_comes_back() -> None:
    far = Terse([chunk({"text": "the answer"}), end("stop"), usage(), DONE])
    last = ask(far, stop=["\n\n"])
    assert far.calls[0]["stop"] == ["\n\n"]
    assert last["generated_text"] == "the answer"
    assert last["details"]["finish_reason"] == "eos_token"
    assert (last["details"]["generated_tokens"], last["details"]["input_length"]) == (30, 70)
    assert "estimated" not in last["details"]


def test_a_stop_string_that_the_upstream_names_is_put_back() -> None:
    """vLLM cuts it off and says which one it was."""
    far = Terse([chunk({"text": "four"}), end("stop", stop_reason="Q:"), usage(), DONE])
    last = ask(far, stop=["Q:"])
    assert last["generated_text"] == "fourQ:"
    assert last["details"]["finish_reason"] == "stop_sequence"
    assert last["details"]["generated_tokens"] == 30


def test_an_upstream_that_leaves_the_stop_string_in_tells_its_usage_too() -> None:
    far = Terse([chunk({"text": "four Q:"}), end("stop"), usage(), DONE])
    last = ask(far, stop=["Q:"])
    assert last["generated_text"] == "four Q:"
    assert last["details"]["finish_reason"] == "stop_sequence"
    assert (last["details"]["generated_tokens"], last["details"]["input_length"]) == (30, 70)


def test_an_upstream_that_does_not_stop_is_left_at_its_next_word() -> None:
    """24 bytes of prompt are 8 tokens; 18 of `four. Q: next more`, all of which is paid, are 6."""
    far = Terse([chunk({"text": "four. Q: next"})], endless=True)
    last = ask(far, stop=["Q:"])
    assert last["generated_text"] == "four. Q:"
    assert last["details"]["finish_reason"] == "stop_sequence"
    assert (last["details"]["generated_tokens"], last["details"]["input_length"]) == (6, 8)
    assert last["details"]["estimated"] is True
    wait_for(lambda: far.left)


@pytest.mark.parametrize("told", [[], [usage({"prompt_tokens": 0, "completion_tokens": 0})]])
def test_tokens_that_are_not_told_are_estimated_by_bytes(told: list[str]) -> None:
    """One chunk of 31 bytes is 11 tokens, not one."""
    text = "several tokens in a single chun"
    last = ask(Terse([chunk({"text": text}), end("stop"), *told, DONE]))
    assert last["details"]["generated_tokens"] == 11
    assert (last["details"]["input_length"], last["details"]["estimated"]) == (8, True)


def test_more_chunks_than_bytes_by_three_are_the_upper_count() -> None:
    last = ask(Terse([chunk({"text": letter}) for letter in "abcdef"] + [end("stop"), DONE]))
    assert last["details"]["generated_tokens"] == 6


@pytest.mark.parametrize(
    "answer", [{"count": 5, "max_model_len": 9, "tokens": [1, 2, 3, 4, 5]}, {"tokens": [1] * 5}]
)
def test_an_upstreams_own_tokenizer_counts_what_it_does_not_tell(answer: dict[str, Any]) -> None:
    far = Terse([chunk({"text": "words"}), end("stop"), DONE], tokenize=answer)
    last = ask(far)
    assert (last["details"]["generated_tokens"], last["details"]["input_length"]) == (5, 5)
    assert last["details"]["estimated"] is True
    asked = far.counted[-1]
    assert asked["prompt"] == asked["content"] == "words"


def test_a_tokenizer_on_this_machine_counts_too(tmp_path: Path) -> None:
    words = Tokenizer(WordLevel({"?": 0, "one": 1, "two": 2}, unk_token="?"))
    words.pre_tokenizer = Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    far = Terse([chunk({"text": "one two one"}), end("stop"), DONE])
    with before(far, teacher_upstream_tokenizer=str(tmp_path)) as url:
        last = events(url, "é one", details=True)[-1]
        assert (last["details"]["generated_tokens"], last["details"]["input_length"]) == (3, 2)
        pieces = httpx2.post(f"{url}/tokenize", json={"inputs": "é one"}).json()
        assert pieces[1] == {"id": 1, "text": "one", "start": 3, "stop": 6}


def test_a_tokenizer_that_is_not_there_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="TEACHER_UPSTREAM_TOKENIZER="):
        build_engine(
            EngineSettings(
                teacher_upstream_url="http://127.0.0.1:9", teacher_upstream_tokenizer=str(tmp_path)
            )
        )


def test_length_is_told_as_length() -> None:
    last = ask(Terse([chunk({"text": "cut"}), end("length"), usage(), DONE]))
    assert last["details"]["finish_reason"] == "length"
    assert last["details"]["generated_tokens"] == 30


@pytest.mark.parametrize("lines", [[usage(), DONE], ['data: {"choices": []}\n\n', DONE]])
def test_an_answer_without_a_choice_is_empty(lines: list[str]) -> None:
    last = ask(Terse(lines))
    assert (last["generated_text"], last["details"]["finish_reason"]) == ("", "eos_token")


def test_an_answer_without_a_reason_ends_in_order() -> None:
    last = ask(Terse([chunk({"text": "fine"}), DONE]))
    assert (last["generated_text"], last["details"]["finish_reason"]) == ("fine", "eos_token")


def test_a_filtered_answer_is_refused_as_such_and_not_asked_again() -> None:
    far = Terse([chunk({"text": "half an"}), end("content_filter"), usage(), DONE])
    last = ask(far)
    assert last["error"].startswith("Content filtered: ")
    assert last["error_type"] == "content_filter"
    assert len(far.calls) == 1


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (400, FILTERED, "content_filter", "Content filtered: try another prompt"),
        (400, TOO_LONG, "validation", "the prompt is too long: maximum context length"),
        # vLLM's older releases.
        (400, TOO_LONG["error"], "validation", "the prompt is too long: maximum context length"),
        (413, {}, "validation", "too long: upstream answered 413"),
    ],
)
def test_what_a_refusal_means_is_told(
    status: int, body: dict[str, Any], kind: str, said: str
) -> None:
    last = ask(Terse([], status=status, body=body))
    assert last["error_type"] == kind
    assert said in last["error"]


def test_the_context_is_the_one_that_the_upstream_states() -> None:
    far = Terse([], models=[{"id": "other", "max_model_len": 9}, {"id": "m", "max_model_len": 99}])
    with before(far, model_id="m") as url:
        assert httpx2.get(f"{url}/info").json()["max_total_tokens"] == 99


def test_a_context_that_is_not_stated_is_a_guess_that_refuses_no_prompt() -> None:
    """But for the one that is set."""
    lines = [chunk({"text": "fine"}), end("stop"), usage(), DONE]
    far = Terse(lines, tokenize={"tokens": [1] * 5000})
    with before(far) as url:
        assert httpx2.get(f"{url}/info").json()["context_known"] is False
        assert generate(url, "long").json() == {"generated_text": "fine"}
    with before(far, max_total_tokens=4000) as url:
        assert httpx2.get(f"{url}/info").json()["context_known"] is True
        assert generate(url, "long", max_new_tokens=8).status_code == 422
