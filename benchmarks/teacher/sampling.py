"""The cost of choosing tokens: milliseconds per row and token of the local engine.

    python -m benchmarks.teacher.sampling [--threads 1] [--rounds 5] [--device cpu]

Random logits of 64 rows, as wide as SmolLM2's and Qwen2.5's vocabularies, at temperature 0.7. On
a CPU it is the processor's time, which other jobs change little; the best round counts.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

from benchmarks.step_cost.fixtures import SEED
from services.teacher.engines.base import SamplingParams
from services.teacher.engines.transformers.sampling import SamplingRow, sample_tokens

ROWS = 64
VOCABULARIES = (49_152, 151_936)
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "sampled": {},
    "top_k 50": {"top_k": 50},
    "top_p .95": {"top_p": 0.95},
}


def measure_row_ms(vocabulary: int, settings: dict[str, Any], *, device: str, rounds: int) -> float:
    """Milliseconds per row and token."""
    torch.manual_seed(SEED)
    logits = 3 * torch.randn(ROWS, vocabulary, device=device)
    rows = [
        SamplingRow(SamplingParams(**{"do_sample": True, "temperature": 0.7, **settings}, seed=i))
        for i in range(ROWS)
    ]
    read_clock = time.process_time if device == "cpu" else time.perf_counter
    seconds = []
    for _ in range(rounds + 1):  # the first warms up
        started = read_clock()
        sample_tokens(logits, rows)  # its results are on the host when it returns
        seconds.append(read_clock() - started)
    return 1000 * min(seconds[1:]) / ROWS


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What choosing a token costs.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    print(f"{'vocabulary':>10}  {'settings':10}{'ms per row and token':>22}")
    for vocabulary in VOCABULARIES:
        for name, settings in SETTINGS.items():
            cost = measure_row_ms(
                vocabulary, settings, device=options.device, rounds=options.rounds
            )
            print(f"{vocabulary:>10,}  {name:10}{cost:>22.3f}")


if __name__ == "__main__":
    main()
