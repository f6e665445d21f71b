"""Pages of a large rationale set: whether the last ones take longer than the first ones."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterable, Iterator
from typing import Any

import httpx2

from benchmarks.gateway.monitor import median_ms, percentile_99_ms
from benchmarks.gateway.system import BenchmarkSystem
from qcrd.errors import NotFound
from qcrd.method.answers import question_id
from qcrd.questions import labelling
from qcrd.records.rationale_annotations import RationaleScore, RationaleScoreManifest
from qcrd.records.rationales import (
    Question,
    RationaleCounts,
    RationaleItem,
    RationaleManifest,
    RationaleSource,
)
from qcrd.records.specs.spec import MethodSpec
from qcrd.records.specs.task import TaskSpec
from qcrd.runtime import keys
from qcrd.runtime.storage import rationale_edits
from qcrd.runtime.storage.json_lines import write_lines
from qcrd.runtime.storage.store import read_record, write_record
from services.api.assembling.writing.set_writer import SHARD_SIZE
from services.api.rationale_sets import index

SAMPLES = 5
"""Rationales per question."""
LIMIT = 100
END_PAGES = 10
"""Pages timed at either end."""
REPEATS = 15
SET, JOB = (f"{kind}-{keys.digest('benchmark')}" for kind in ("set", "ftjob"))
FILTERS: dict[str, dict[str, Any]] = {
    "all": {},
    "filtered": {"polarity": "negative", "max_margin": 0.6, "min_score": 0.25},
}
SPEC = MethodSpec(task=TaskSpec.model_validate({"answer": "number"}))
REASON = "There are {0} of them, and one comes on top of that, so there is one more than {0}. " * 2

Page = tuple[str | None, int]
"""The item that the page starts after, and its number of items."""


def create_rationale_set(system: BenchmarkSystem, items: int) -> None:
    """Create the set: a fifth as many questions as items, each with a vote and a score."""
    try:
        read_record(system.store, keys.rationale_manifest_key(SET), RationaleManifest)
    except NotFound:
        _write_rationale_set(system, [_make_item(number) for number in range(items // SAMPLES)])


def _make_item(number: int) -> RationaleItem:
    """One, two or none of five samples are wrong, so that margins differ."""
    text = f"What is {number} + 1?"
    question = Question(id=question_id(text), text=text, label=str(number + 1))
    outputs = [
        f"<Explanation>: Way {way}. {REASON.format(number)}\n"
        f"<Answer>: {number + (way >= number % 3)}"
        for way in range(SAMPLES)
    ]
    return labelling.build_item(question, outputs, SPEC)


def _write_rationale_set(system: BenchmarkSystem, items: list[RationaleItem]) -> None:
    batches = [items[start : start + SHARD_SIZE] for start in range(0, len(items), SHARD_SIZE)]
    shards = [keys.rationale_shard_key(SET, number) for number in range(len(batches))]
    for key, batch in zip(shards, batches, strict=True):
        write_lines(system.store, key, batch)
    index.write_index(system.store, SET, index.build_index(batches))
    write_lines(system.store, keys.job_scores_key(JOB), _scores(items))
    judged = RationaleScoreManifest(
        job_id=JOB, version=2, scores=keys.job_scores_key(JOB), revision="none", created_at=2.0
    )
    write_record(system.store, keys.rationale_scores_key(SET, JOB), judged)
    write_record(system.store, keys.rationale_manifest_key(SET), _make_manifest(shards, items))


def _scores(made: Iterable[RationaleItem]) -> Iterator[RationaleScore]:
    draw = random.Random(0)
    for item in made:
        for _, polarity, rationale in rationale_edits.iter_rationales(item):
            yield RationaleScore(
                rationale_id=rationale.id,
                question_id=rationale.question_id,
                polarity=polarity,
                source=RationaleSource.TEACHER,
                score=draw.random(),
            )


def _make_manifest(shards: list[str], items: list[RationaleItem]) -> RationaleManifest:
    counts: RationaleCounts = labelling.count_outcomes(items, reused=0)
    return RationaleManifest(
        id=SET, shards=tuple(shards), counts=counts, created_at=1.0, job_id=JOB
    )


def measure(url: str, *, items: int, seed: int, repeats: int = REPEATS) -> dict[str, float]:
    """One round: every page once, then those at both ends in turn; times in milliseconds."""
    results: dict[str, float] = {}
    with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
        for name, query in FILTERS.items():
            pages, seconds = _read_all_pages(client, query)
            results |= {
                f"{name}_{what}": value
                for what, value in _compare_ends(client, query, pages, seed, repeats)
            }
            results |= {
                f"{name}_p50_ms": median_ms(seconds),
                f"{name}_p99_ms": percentile_99_ms(seconds),
            }
            results[f"{name}_items"] = sum(count for _, count in pages)
    results["missing"] = items - results["all_items"]
    return results


def _read_all_pages(client: httpx2.Client, query: dict[str, Any]) -> tuple[list[Page], list[float]]:
    """All pages in order, with their times."""
    pages: list[Page] = []
    seconds: list[float] = []
    after, more = None, True
    while more:
        page, seconds_taken = _get_page(client, query, after)
        pages.append((after, len(page["data"])))
        seconds.append(seconds_taken)
        after, more = page["last_id"], page["has_more"]
    return pages, seconds


def _compare_ends(
    client: httpx2.Client, query: dict[str, Any], pages: list[Page], seed: int, repeats: int
) -> Iterator[tuple[str, float]]:
    """Compare full pages only, so that both ends have as many items."""
    full = [after for after, count in pages if count == LIMIT]
    ends = {"first": full[:END_PAGES], "last": full[-END_PAGES:]}
    order = [(end, after) for end, afters in ends.items() for after in afters] * repeats
    random.Random(seed).shuffle(order)
    seconds: dict[str, list[float]] = {"first": [], "last": []}
    for end, after in order:
        seconds[end].append(_get_page(client, query, after)[1])
    yield "first_ms", median_ms(seconds["first"])
    yield "last_ms", median_ms(seconds["last"])
    yield (
        "last_over_first",
        statistics.median(seconds["last"]) / statistics.median(seconds["first"]),
    )


def _get_page(
    client: httpx2.Client, query: dict[str, Any], after: str | None
) -> tuple[dict[str, Any], float]:
    params = {**query, "limit": LIMIT, **({"after": after} if after else {})}
    started_at = time.perf_counter()
    response = client.get(f"/v1/rationale_sets/{SET}/items", params=params)
    seconds = time.perf_counter() - started_at
    return response.raise_for_status().json(), seconds
