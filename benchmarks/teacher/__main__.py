"""Teacher throughput: its engines, the cost of HTTP, the upstream engine, shared prompts.

    python -m benchmarks.teacher [--rounds 3] [--threads 2] [--json FILE]

SmolLM2-135M, prompts of 300 tokens that share no beginning, 96 new tokens, temperature 0.7. The
bound is a plain `transformers` loop: one `generate()` after the other on the same weights. In
process means the same engine without HTTP, all requests submitted at once. A ratio is the median
over rounds of the round's own ratio; the end token may come early, so tokens are counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.step_cost.fixtures import SEED
from benchmarks.teacher import load
from services.teacher.engines.base import Engine, SamplingParams, ValidGenerateRequest
from services.teacher.engines.factory import BUNDLED_MODELS, build_engine, find_model
from services.teacher.settings import EngineSettings

MODEL = next(iter(BUNDLED_MODELS))
ENGINES = ("local", "gguf")
CONCURRENT = (1, 8, 32)
LOOP_PROMPTS = 2
"""Prompts of the plain loop, whose speed does not depend on their number."""


def make_settings(engine: str, threads: int) -> dict[str, str]:
    return {
        "TEACHER_ENGINE": engine, "MODEL_ID": MODEL, "TEACHER_THREADS": str(threads),
        "TEACHER_SLOTS": str(max(CONCURRENT)), "MAX_TOTAL_TOKENS": "512",
    }  # fmt: skip


def make_engine(name: str, threads: int) -> Engine:
    options = {key.lower(): value for key, value in make_settings(name, threads).items()}
    return build_engine(EngineSettings(**options))


class GenerateLoop:
    """`model.generate`, one prompt after the other."""

    def __init__(self, threads: int) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(threads)
        path = find_model(MODEL)
        load_options: dict[str, Any] = {"gguf_file": path.name, "dtype": torch.float32}
        self._model = AutoModelForCausalLM.from_pretrained(path.parent, **load_options).eval()
        self._tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)

    def measure_rate(self, texts: Sequence[str]) -> float:
        """Tokens per second."""
        tokens, started = 0, time.perf_counter()
        for text in texts:
            inputs = self._tokenizer(text, return_tensors="pt")
            out = self._model.generate(
                **inputs, do_sample=True, temperature=load.TEMPERATURE, top_k=0,
                max_new_tokens=load.NEW_TOKENS,
            )  # fmt: skip
            tokens += out.shape[1] - inputs.input_ids.shape[1]
        return tokens / (time.perf_counter() - started)


async def run_in_process(engine: Engine, texts: Sequence[str], seed: int) -> load.LoadResult:
    """The same requests, submitted to the engine without HTTP."""
    result = load.LoadResult()

    async def run_request(number: int, text: str) -> None:
        ids = tuple(piece.id for piece in await engine.tokenize(text) or ())
        sampling = SamplingParams(do_sample=True, seed=seed + number, temperature=load.TEMPERATURE)
        async for token in engine.submit(
            ValidGenerateRequest(text, ids, load.NEW_TOKENS, sampling)
        ):
            result.tokens += 1
            if token.finish_reason:
                break

    started = time.perf_counter()
    await asyncio.gather(*(run_request(number, text) for number, text in enumerate(texts)))
    result.seconds = time.perf_counter() - started
    return result


async def prefills_for_5(engine: Engine) -> float:
    """Prompt tokens processed for five samples of one new prompt, in units of that prompt."""
    [text] = load.make_prompts(1, seed=SEED + 999)
    length = len(await engine.tokenize(text) or ())
    before = engine.prefilled_tokens  # type: ignore[attr-defined]
    await run_in_process(engine, [text] * 5, seed=SEED)
    read: int = engine.prefilled_tokens - before  # type: ignore[attr-defined]
    return read / length


def measure_engine(name: str, rounds: int, threads: int, loop: GenerateLoop) -> dict[str, Any]:
    """One engine over HTTP at each concurrency; every round also runs without HTTP and the loop,
    so that other load on the machine affects all figures of a round.
    """
    with load.run_teacher(**make_settings(name, threads)) as url:
        return asyncio.run(_measure_engine(url, make_engine(name, threads), rounds, loop))


async def _measure_engine(
    url: str, engine: Engine, rounds: int, loop: GenerateLoop
) -> dict[str, Any]:
    served: dict[int, list[load.LoadResult]] = {count: [] for count in CONCURRENT}
    looped, eight = [], []
    await engine.start()
    try:
        for turn in range(-1, rounds):  # warm-up
            for count in CONCURRENT:
                served[count].append(
                    await load.send_burst(f"{url}/generate_stream", _make_bodies(count, turn))
                )
                if count == 8:
                    texts = load.make_prompts(8, seed=SEED + 100 * turn + 8)
                    eight.append(await run_in_process(engine, texts, seed=turn))
            looped.append(loop.measure_rate(load.make_prompts(LOOP_PROMPTS, seed=SEED + turn)))
        prefills = await prefills_for_5(engine)
    finally:
        await engine.close()
    served = {count: loads[1:] for count, loads in served.items()}
    return {
        "served": served,
        "over_generate_32": [a.rate / b for a, b in zip(served[32], looped[1:], strict=True)],
        "over_inprocess_8": [a.rate / b.rate for a, b in zip(served[8], eight[1:], strict=True)],
        "loop": statistics.median(looped[1:]),
        "prefills_for_5": prefills,
    }


def _make_bodies(count: int, turn: int) -> list[dict[str, Any]]:
    texts = load.make_prompts(count, seed=SEED + 100 * turn + count)
    return [load.make_native_body(text, number) for number, text in enumerate(texts)]


def measure_upstream(rounds: int) -> dict[str, Any]:
    """A fast fake upstream, called directly and through a teacher."""
    texts = load.make_prompts(32, seed=SEED, tokens=20)
    direct, through = [], []
    with (
        load.run_fake_upstream() as upstream_url,
        load.run_teacher(
            TEACHER_ENGINE="upstream", TEACHER_UPSTREAM_URL=upstream_url, MODEL_ID="fake"
        ) as teacher_url,
    ):
        for turn in range(-1, rounds):
            bodies = [load.make_openai_body(text, 0, load.UPSTREAM_TOKENS) for text in texts]
            direct_load = asyncio.run(load.send_burst(f"{upstream_url}/v1/completions", bodies))
            bodies = [load.make_native_body(text, 0, load.UPSTREAM_TOKENS) for text in texts]
            through_load = asyncio.run(load.send_burst(f"{teacher_url}/generate_stream", bodies))
            if turn >= 0:
                direct.append(direct_load)
                through.append(through_load)
    return {
        "upstream_over_direct": [a.rate / b.rate for a, b in zip(through, direct, strict=True)],
        "direct": statistics.median(found.rate for found in direct),
        "added_first": statistics.median(
            statistics.median(a.first) - statistics.median(b.first)
            for a, b in zip(through, direct, strict=True)
        ),
    }


def measure(rounds: int, threads: int) -> dict[str, Any]:
    loop = GenerateLoop(threads)
    engines = {name: measure_engine(name, rounds, threads, loop) for name in ENGINES}
    return summarize(engines, measure_upstream(rounds), rounds=rounds, threads=threads)


def summarize(
    engines: dict[str, Any], upstream: dict[str, Any], *, rounds: int, threads: int
) -> dict[str, Any]:
    """The ratios, of the better engine where there are two, and their inputs."""
    better = max(ENGINES, key=lambda name: statistics.median(engines[name]["over_generate_32"]))
    rounds_of = {
        "over_generate_32": engines[better]["over_generate_32"],
        "over_inprocess_8": engines[better]["over_inprocess_8"],
        "upstream_over_direct": upstream["upstream_over_direct"],
    }
    prefills = {name: engines[name]["prefills_for_5"] for name in ENGINES}
    return {
        "ratios": {
            **{name: statistics.median(values) for name, values in rounds_of.items()},
            "prefills_for_5": prefills[better],
        },
        "ranges": {name: [min(values), max(values)] for name, values in rounds_of.items()},
        "engines": {name: _summarize_engine(engines[name]) for name in ENGINES},
        "upstream": {
            "direct": upstream["direct"], "added_first_ms": 1000 * upstream["added_first"],
        },
        "conditions": {
            "better_engine": better, "model": "SmolLM2-135M-Instruct Q4_1",
            "prompt_tokens": load.PROMPT_TOKENS, "new_tokens": load.NEW_TOKENS,
            "temperature": load.TEMPERATURE, "rounds": rounds, "threads": threads,
            "cores": os.cpu_count(), "device": "cuda" if torch.cuda.is_available() else "cpu",
            "torch": torch.__version__, "seed": SEED, "upstream_rate": load.UPSTREAM_RATE,
            "upstream_tokens": load.UPSTREAM_TOKENS,
        },
    }  # fmt: skip


def _summarize_engine(results: dict[str, Any]) -> dict[str, Any]:
    rows = {
        str(count): {
            "tokens_per_second": statistics.median(one.rate for one in loads),
            "first_ms": _percentiles_ms([s for one in loads for s in one.first]),
            "between_ms": _percentiles_ms([s for one in loads for s in one.between]),
        }
        for count, loads in results["served"].items()
    }
    return {
        "served": rows,
        "loop_tokens_per_second": results["loop"],
        "over_generate_32": statistics.median(results["over_generate_32"]),
        "over_inprocess_8": statistics.median(results["over_inprocess_8"]),
        "prefills_for_5": results["prefills_for_5"],
    }


def _percentiles_ms(seconds: list[float]) -> dict[str, float]:
    """The median and the 99th percentile."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive") if len(seconds) > 1 else seconds
    return {"p50": 1000 * statistics.median(seconds), "p99": 1000 * cuts[-1]}


def print_results(results: dict[str, Any]) -> None:
    print(
        f"{'engine':8}{'at once':>8}{'tok/s':>9}{'first p50/p99 ms':>22}{'between p50/p99 ms':>22}"
    )
    for name, engine in results["engines"].items():
        for count, row in engine["served"].items():
            first, between = row["first_ms"], row["between_ms"]
            print(
                f"{name:8}{count:>8}{row['tokens_per_second']:>9.1f}"
                f"{first['p50']:>13.0f}/{first['p99']:>8.0f}"
                f"{between['p50']:>13.1f}/{between['p99']:>8.1f}"
            )
        print(
            f"{name:8}    over the loop ({engine['loop_tokens_per_second']:.1f} tok/s) at 32: "
            f"{engine['over_generate_32']:.2f}, over itself in process at 8: "
            f"{engine['over_inprocess_8']:.2f}, prefills for 5 samples: "
            f"{engine['prefills_for_5']:.2f}"
        )
    upstream = results["upstream"]
    print(
        f"upstream    {upstream['direct']:.0f} tok/s directly; "
        f"{upstream['added_first_ms']:.1f} ms added to the first token"
    )
    for name, value in results["ratios"].items():
        low, high = results["ranges"].get(name, (value, value))
        print(f"{name}: {value:.2f} (rounds: {low:.2f} to {high:.2f})")
    print("conditions:", json.dumps(results["conditions"]))


def make_report(results: dict[str, Any]) -> dict[str, Any]:
    """The four ratios, with the measurement's `conditions`."""
    more = {name: results[name] for name in ("ranges", "engines", "upstream")}
    return {"ratios": results["ratios"], "conditions": {**results["conditions"], **more}}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="How fast the teacher answers.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    results = measure(options.rounds, options.threads)
    print_results(results)
    if options.json:
        options.json.write_text(json.dumps(make_report(results), indent=1))


if __name__ == "__main__":
    main()
