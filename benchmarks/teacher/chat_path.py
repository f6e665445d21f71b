"""The chat path through a teacher server against the same chats at its upstream.

The two take turns, in pairs whose first is drawn; a ratio is that of the pair's tokens per second.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from benchmarks.teacher import load
from qcrd.cli.stack.ports import find_free_port
from qcrd.method.evaluation.statistics import t_interval
from services.teacher.engines.factory import find_model

MIN_RATIO = 0.97
"""The issue's, of tokens per second through the teacher server to those of the upstream itself."""
TAIL_BYTES = 4096
"""Of a stream, kept for the usage at its end."""
LLAMA_KEY = "a-key-of-the-benchmark"
LLAMA_SLOTS = 8


@dataclass(frozen=True)
class Case:
    """`requests` for `samples` of a prompt each, of which `at_once` are in flight as a job has
    them: each that ends is followed by the next. `tokens`: the least and the most of an answer."""

    name: str
    upstream: str
    model: str
    requests: int
    at_once: int
    samples: int
    tokens: tuple[int, int]


CASES = (
    Case("paced", "fake", load.PACED, requests=128, at_once=32, samples=1, tokens=(60, 140)),
    Case("paced_8", "fake", load.PACED, requests=32, at_once=8, samples=1, tokens=(60, 140)),
    Case("paced_5", "fake", load.PACED, requests=24, at_once=6, samples=5, tokens=(60, 140)),
    Case("llama_cpp", "llama.cpp", "m", requests=16, at_once=8, samples=1, tokens=(32, 64)),
    Case("fast", "fake", "fake", requests=32, at_once=32, samples=1, tokens=(960, 960)),
)
"""Streams of a hosted model's pace: 32 and 8 of one sample, and five to a request as a job asks
for them; the real server of llama.cpp; and, to see the end of it, as many tokens as a core can
write."""
BOUND_CASES = ("paced", "paced_8", "paced_5", "llama_cpp")
"""Those for which `MIN_RATIO` has to hold. At 10,000 tokens/s upstream, teacher and client need
more than two cores, and the ratio is what the scheduler makes of them."""


def make_chats(case: Case, number: int, seed: int) -> list[dict[str, Any]]:
    """Of burst `number`, which has the lengths of every other one. None begins with the words of
    another, so that no server's cache helps."""
    rng = random.Random(f"{seed}/{case.name}")
    texts = load.make_prompts(case.requests, seed=number, tokens=20)
    return [
        {
            "model": case.model,
            "messages": [{"role": "user", "content": f"Burst {number}. Tell me a story: {text}"}],
            "n": case.samples,
            "max_tokens": rng.randint(*case.tokens),
            "temperature": load.TEMPERATURE,
            "seed": number,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for text in texts
    ]


async def send_chats(
    url: str, bodies: Sequence[dict[str, Any]], at_once: int, key: str = ""
) -> load.LoadResult:
    """The tokens of all `bodies`, as the answers' usage counts them, and the seconds they took."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    # As a job's client has them: of plain HTTP it keeps no connection.
    limits = httpx2.Limits(max_connections=at_once, max_keepalive_connections=0)
    waiting, result = list(reversed(bodies)), load.LoadResult()
    async with httpx2.AsyncClient(
        timeout=600, limits=limits, trust_env=False, headers=headers
    ) as client:

        async def send_next() -> None:
            while waiting:
                written = await _count_tokens(client, f"{url}/v1/chat/completions", waiting.pop())
                result.tokens += written

        started = time.perf_counter()
        await asyncio.gather(*(send_next() for _ in range(at_once)))
        result.seconds = time.perf_counter() - started
    return result


async def _count_tokens(client: httpx2.AsyncClient, url: str, body: dict[str, Any]) -> int:
    """Only the end is parsed: the client shares its cores with what is measured."""
    tail = b""
    async with client.stream("POST", url, json=body) as response:
        if response.is_error:
            raise RuntimeError((await response.aread()).decode())
        async for chunk in response.aiter_raw():
            tail = (tail + chunk)[-TAIL_BYTES:]
    return load.read_usage(tail)


def measure_case(case: Case, pairs: int, seed: int) -> dict[str, Any]:
    """One pair more than `pairs` comes first, to warm up, and is not counted."""
    rng = random.Random(f"{seed}/{case.name}")
    rates: dict[str, list[float]] = {"direct": [], "through": []}
    with (
        run_upstream(case.upstream) as (upstream_url, key),
        _run_teacher(case, upstream_url, key) as teacher_url,
    ):
        ways = {"direct": (upstream_url, key), "through": (teacher_url, "")}
        for pair in range(pairs + 1):
            for place, way in enumerate(rng.sample(list(ways), 2)):
                chats = make_chats(case, 2 * pair + place, seed)
                url, own_key = ways[way]
                sent = asyncio.run(send_chats(url, chats, case.at_once, own_key))
                rates[way].append(sent.rate)
    return summarize_rates(rates["direct"][1:], rates["through"][1:])


def summarize_rates(direct: Sequence[float], through: Sequence[float]) -> dict[str, Any]:
    """`ratio` with the 95 % interval of its mean over pairs, which come as different ones."""
    ratios = [one / other for one, other in zip(through, direct, strict=True)]
    interval = t_interval(ratios)
    return {
        "direct_tokens_per_second": round(statistics.mean(direct), 1),
        "through_tokens_per_second": round(statistics.mean(through), 1),
        "ratio": round(interval.value, 4),
        "low": round(interval.low, 4),
        "high": round(interval.high, 4),
        "pairs": len(ratios),
        "ratios": [round(ratio, 4) for ratio in ratios],
    }


@contextmanager
def _run_teacher(case: Case, upstream_url: str, key: str) -> Iterator[str]:
    settings = {"TEACHER_ENGINE": "upstream", "TEACHER_UPSTREAM_URL": upstream_url}
    settings |= {"MODEL_ID": case.model, "TEACHER_UPSTREAM_KEY": key}
    with load.run_teacher(**settings) as url:
        yield url


@contextmanager
def run_upstream(name: str) -> Iterator[tuple[str, str]]:
    """Its URL and its key."""
    if name == "fake":
        with load.run_fake_upstream() as url:
            yield url, ""
        return
    port = find_free_port()
    command = [sys.executable, "-m", "benchmarks.teacher.chat_path", str(port)]
    with load.run_process(command, {}, port) as url:
        yield url, LLAMA_KEY


def serve_llama_cpp(port: int) -> None:
    """llama.cpp's own server on one thread, until it is stopped."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(find_model("smollm2"))
    params.port = port
    params.n_parallel, params.n_ctx, params.kv_unified = LLAMA_SLOTS, LLAMA_SLOTS * 512, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.fit_params, params.verbosity, params.api_keys = False, -1, [LLAMA_KEY]
    server = xllamacpp.Server(params)
    while server.listening_address:
        time.sleep(3600)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    serve_llama_cpp(int(sys.argv[1]))
