"""What teachers cost: a rationale's tokens as billed, and what a teacher server takes off a chat.

    python -m benchmarks.teachers [--only PART …] [--questions 156] [--pairs 12] [--seed 0]
        [--json FILE]

Parts: `cost`, the demo's questions asked of its teacher; and by the names of their cases, chats
through a teacher server against the same chats at its upstream, in turn. Ratios are of pairs that
ran one after the other, with 95 % t intervals over them: client, teacher and upstream share this
machine's cores with whatever else runs. The figures in `LIMITS` must hold.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.teacher import chat_path, load, rationale_cost

COST = "cost"
PARTS = (COST, *(case.name for case in chat_path.CASES))
PACKAGES = ("fastapi", "uvicorn", "uvloop", "httptools", "httpx2", "h11", "xllamacpp")


@dataclass(frozen=True)
class Limit:
    """Of figure `name` of a part."""

    part: str
    name: str
    lowest: float = float("-inf")
    highest: float = float("inf")

    def holds(self, figures: Mapping[str, Any]) -> bool:
        return self.lowest <= float(figures[self.name]) <= self.highest


LIMITS = (
    Limit(
        COST,
        "prompt_tokens_per_rationale",
        highest=rationale_cost.MAX_PROMPT_TOKENS_PER_RATIONALE,
    ),
    Limit(COST, "unparseable_share", highest=rationale_cost.MAX_UNPARSEABLE_SHARE),
    *(Limit(name, "ratio", lowest=chat_path.MIN_RATIO) for name in chat_path.BOUND_CASES),
)


def measure(
    parts: Sequence[str], questions: int, pairs: int, seed: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each part with its figures."""
    if COST in parts:
        yield COST, rationale_cost.measure(questions)
    for case in chat_path.CASES:
        if case.name in parts:
            yield case.name, chat_path.measure_case(case, pairs, seed)


def judge(found: Mapping[str, Mapping[str, Any]]) -> dict[str, bool]:
    """By the name of each limit whose part was measured, whether it holds."""
    return {
        f"{limit.part}.{limit.name}": limit.holds(found[limit.part])
        for limit in LIMITS
        if limit.part in found
    }


def describe_conditions(seed: int) -> dict[str, Any]:
    return {
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load_at_end": [round(each, 2) for each in os.getloadavg()],
        "seed": seed,
        "tokens_per_second_of_a_paced_stream": load.STREAM_RATE,
        "tokens_per_second_of_the_fast_upstream": load.UPSTREAM_RATE,
        "versions": {name: version(name) for name in PACKAGES},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument("--questions", type=int, default=156)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args(arguments)
    found: dict[str, Any] = {}
    for part, figures in measure(given.only, given.questions, given.pairs, given.seed):
        found[part] = figures
        for name, value in figures.items():
            print(f"{part:10} {name:32} {value}", flush=True)
    limits, conditions = judge(found), describe_conditions(given.seed)
    for name, holds in limits.items():
        print(f"{name}: {'holds' if holds else 'DOES NOT HOLD'}")
    print("conditions:", json.dumps(conditions))
    if given.json:
        report = {"figures": found, "limits": limits, "conditions": conditions}
        given.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
