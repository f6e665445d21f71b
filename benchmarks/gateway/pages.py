"""Pages of a large rationale set: whether those at its end take longer than the first ones."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterable, Iterator
from typing import Any

import httpx2

from benchmarks.gateway.monitor import p50, p99
from benchmarks.gateway.system import System
from qcrd.errors import NotFound
from qcrd.method.answers import question_id
from qcrd.records.rationale_annotations import RationaleScore, RationaleScoreManifest
from qcrd.records.rationales import (
    Question,
    RationaleCounts,
    RationaleItem,
    RationaleManifest,
    RationaleSource,
)
from qcrd.records.spec import MethodSpec, TaskSpec
from qcrd.runtime import keys
from qcrd.runtime.storage import rationale_edits
from qcrd.runtime.storage.store import read_record, write_lines, write_record
from services.api.assembling import labelling
from services.api.assembling.stage import SHARD_SIZE
from services.api.rationale_sets import index

SAMPLES = 5
"""Rationales of a question."""
LIMIT = 100
PLACES = 10
"""Pages at either end whose times are taken."""
REPEATS = 15
SET, JOB = (f"{kind}-{keys.digest('benchmark')}" for kind in ("set", "ftjob"))
FILTERS: dict[str, dict[str, Any]] = {
    "all": {},
    "filtered": {"polarity": "negative", "max_margin": 0.6, "min_score": 0.25},
}
SPEC = MethodSpec(task=TaskSpec.model_validate({"answer": "number"}))
REASON = "There are {0} of them, and one comes on top of that, so there is one more than {0}. " * 2

Page = tuple[str | None, int]
"""The item it begins after, and how many items it has."""


def prepare(system: System, items: int) -> None:
    """The set, once: a fifth as many questions as items, each voted and judged."""
    try:
        read_record(system.store, keys.rationale_manifest_key(SET), RationaleManifest)
    except NotFound:
        _write(system, [_item(number) for number in range(items // SAMPLES)])


def _item(number: int) -> RationaleItem:
    """One sample in five, two or none are wrong, so that margins differ."""
    text = f"What is {number} + 1?"
    asked = Question(id=question_id(text), text=text, label=str(number + 1))
    said = [
        f"<Explanation>: Way {way}. {REASON.format(number)}\n"
        f"<Answer>: {number + (way >= number % 3)}"
        for way in range(SAMPLES)
    ]
    return labelling.build_item(asked, said, SPEC)


def _write(system: System, made: list[RationaleItem]) -> None:
    batches = [made[start : start + SHARD_SIZE] for start in range(0, len(made), SHARD_SIZE)]
    shards = [keys.rationale_shard_key(SET, number) for number in range(len(batches))]
    for key, batch in zip(shards, batches, strict=True):
        write_lines(system.store, key, batch)
    index.write_index(system.store, SET, index.build_index(batches))
    write_lines(system.store, keys.job_scores_key(JOB), _scores(made))
    judged = RationaleScoreManifest(
        job_id=JOB, version=2, scores=keys.job_scores_key(JOB), revision="none", created_at=2.0
    )
    write_record(system.store, keys.rationale_scores_key(SET, JOB), judged)
    write_record(system.store, keys.rationale_manifest_key(SET), _manifest(shards, made))


def _scores(made: Iterable[RationaleItem]) -> Iterator[RationaleScore]:
    draw = random.Random(0)
    for item in made:
        for _, polarity, said in rationale_edits.iter_rationales(item):
            yield RationaleScore(
                rationale_id=said.id,
                question_id=said.question_id,
                polarity=polarity,
                source=RationaleSource.TEACHER,
                score=draw.random(),
            )


def _manifest(shards: list[str], made: list[RationaleItem]) -> RationaleManifest:
    counts: RationaleCounts = labelling.count_outcomes(made, reused=0)
    return RationaleManifest(
        id=SET, shards=tuple(shards), counts=counts, created_at=1.0, job_id=JOB
    )


def measure(url: str, *, items: int, seed: int) -> dict[str, float]:
    """One round: every page once, then those at both ends in turn; times in milliseconds."""
    found: dict[str, float] = {}
    with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
        for name, query in FILTERS.items():
            pages, seconds = _walked(client, query)
            found |= {f"{name}_{what}": value for what, value in _ends(client, query, pages, seed)}
            found |= {f"{name}_p50_ms": p50(seconds), f"{name}_p99_ms": p99(seconds)}
            found[f"{name}_items"] = sum(count for _, count in pages)
    found["missing"] = items - found["all_items"]
    return found


def _walked(client: httpx2.Client, query: dict[str, Any]) -> tuple[list[Page], list[float]]:
    """All pages in order, and how long each took."""
    pages: list[Page] = []
    seconds: list[float] = []
    after, more = None, True
    while more:
        page, took = _asked(client, query, after)
        pages.append((after, len(page["data"])))
        seconds.append(took)
        after, more = page["last_id"], page["has_more"]
    return pages, seconds


def _ends(
    client: httpx2.Client, query: dict[str, Any], pages: list[Page], seed: int
) -> Iterator[tuple[str, float]]:
    """Only full pages, so that both ends show as many items."""
    full = [after for after, count in pages if count == LIMIT]
    ends = {"first": full[:PLACES], "last": full[-PLACES:]}
    order = [(end, after) for end, afters in ends.items() for after in afters] * REPEATS
    random.Random(seed).shuffle(order)
    took: dict[str, list[float]] = {"first": [], "last": []}
    for end, after in order:
        took[end].append(_asked(client, query, after)[1])
    yield "first_ms", p50(took["first"])
    yield "last_ms", p50(took["last"])
    yield "last_over_first", statistics.median(took["last"]) / statistics.median(took["first"])


def _asked(
    client: httpx2.Client, query: dict[str, Any], after: str | None
) -> tuple[dict[str, Any], float]:
    asked = {**query, "limit": LIMIT, **({"after": after} if after else {})}
    began = time.perf_counter()
    answer = client.get(f"/v1/rationale_sets/{SET}/items", params=asked)
    seconds = time.perf_counter() - began
    return answer.raise_for_status().json(), seconds
