"""Timing of training steps on a device that works on its own."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

WARM_UP_STEPS = 3
MEASURED_SECONDS = 4.0
"""Of each method's steps, after the warm-up."""


@dataclass(frozen=True)
class Timed:
    seconds: list[float]
    first_seconds: float
    peak_gib: float | None


def time_steps(run: Callable[[], None], device: torch.device, max_steps: int) -> Timed:
    """Seconds of steps after a warm-up, at most `MEASURED_SECONDS` of them."""
    is_cuda = device.type == "cuda"

    def time_one() -> float:
        started = time.perf_counter()
        run()
        if is_cuda:
            torch.cuda.synchronize()
        return time.perf_counter() - started

    first = time_one()
    for _ in range(min(WARM_UP_STEPS, max_steps) - 1):
        time_one()
    if is_cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds: list[float] = []
    while len(seconds) < max_steps and sum(seconds) < MEASURED_SECONDS:
        seconds.append(time_one())
    peak = torch.cuda.max_memory_allocated() / 2**30 if is_cuda else None
    return Timed(seconds, first, peak)


def describe_rate(
    timed: Timed, tokens: float, work: float | None, peak_flops: float | None
) -> dict[str, Any]:
    """`work`: the step's model FLOPs; None where they are not counted."""
    seconds = statistics.median(timed.seconds)
    return {
        "seconds": seconds,
        "seconds_range": [min(timed.seconds), max(timed.seconds)],
        "steps": len(timed.seconds),
        "first_seconds": timed.first_seconds,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds,
        "peak_gib": timed.peak_gib,
        "model_tflop": None if work is None else work / 1e12,
        "utilisation": work / seconds / peak_flops if work and peak_flops else None,
    }
