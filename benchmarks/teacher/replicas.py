"""Copies of the teacher's model or threads of one: tokens a second, alone and beside other work.

    python -m benchmarks.teacher.replicas [--rounds 3] [--busy 2] [--json FILE]

SmolLM2-135M, 16 slots, 24 outputs of 24 tokens behind a prompt of 300 tokens that all begin with.
`busy` is the number of processes that keep a core each meanwhile. A ratio is the median over rounds
of the round's own, to one copy with one thread; a round takes all forms in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.step_cost.fixtures import SEED
from benchmarks.teacher import load
from services.teacher.engines.base import Engine, SamplingParams, ValidGenerateRequest
from services.teacher.engines.factory import BUNDLED_MODELS, build_engine
from services.teacher.settings import EngineSettings

MODEL = next(iter(BUNDLED_MODELS))
SLOTS, OUTPUTS, NEW_TOKENS = 16, 24, 24


class Form(NamedTuple):
    replicas: int
    threads: int


FORMS = (Form(1, 1), Form(1, 2), Form(2, 1))
PLAIN = FORMS[0]


def make_engine(form: Form) -> Engine:
    return build_engine(
        EngineSettings(
            model_id=MODEL,
            max_total_tokens=512,
            teacher_slots=SLOTS,
            teacher_replicas=form.replicas,
            teacher_threads=form.threads,
        )
    )


@contextmanager
def keep_busy(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


async def measure_rate(engine: Engine, shared: str, turn: int) -> float:
    """Tokens a second of `OUTPUTS` prompts that are asked for at once."""

    async def count_tokens(number: int) -> int:
        text = f"{shared} What kind of thing is number {number + OUTPUTS * turn}?\n"
        ids = tuple(piece.id for piece in await engine.tokenize(text) or ())
        sampling = SamplingParams(do_sample=True, seed=number, temperature=load.TEMPERATURE)
        stream = engine.submit(ValidGenerateRequest(text, ids, NEW_TOKENS, sampling))
        return len([token async for token in stream])

    started = time.perf_counter()
    counts = await asyncio.gather(*(count_tokens(number) for number in range(OUTPUTS)))
    return sum(counts) / (time.perf_counter() - started)


async def measure(rounds: int, busy: int) -> dict[str, Any]:
    engines = {form: make_engine(form) for form in FORMS}
    for engine in engines.values():
        await engine.start()
    (shared,) = load.make_prompts(1, seed=SEED)
    rates: dict[tuple[int, Form], list[float]] = {}
    try:
        for turn in range(-1, rounds):  # warm-up
            for others in sorted({0, busy}):
                with keep_busy(others):
                    for form, engine in engines.items():
                        rate = await measure_rate(engine, shared, turn + 1)
                        rates.setdefault((others, form), []).append(rate)
    finally:
        for engine in engines.values():
            await engine.close()
    rows = []
    for (others, form), measured in rates.items():
        kept, plain = measured[1:], rates[others, PLAIN][1:]
        ratios = [one / other for one, other in zip(kept, plain, strict=True)]
        rows.append(
            {
                "busy": others,
                **form._asdict(),
                "tokens_per_second": statistics.median(kept),
                "over_plain": statistics.median(ratios),
                "range": [min(ratios), max(ratios)],
            }
        )
    conditions = {
        "model": MODEL,
        "slots": SLOTS,
        "outputs": OUTPUTS,
        "new_tokens": NEW_TOKENS,
        "prompt_tokens": load.PROMPT_TOKENS,
        "rounds": rounds,
        "cores": os.cpu_count(),
        "seed": SEED,
    }
    return {"rows": rows, "conditions": conditions}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Copies of the teacher's model, or threads.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    found = asyncio.run(measure(options.rounds, options.busy))
    print(f"{'busy':>4}{'copies':>8}{'threads':>9}{'tok/s':>8}{'over 1 x 1':>12}")
    for row in found["rows"]:
        low, high = row["range"]
        print(
            f"{row['busy']:>4}{row['replicas']:>8}{row['threads']:>9}"
            f"{row['tokens_per_second']:>8.1f}{row['over_plain']:>12.2f} ({low:.2f} to {high:.2f})"
        )
    print("conditions:", json.dumps(found["conditions"]))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
