"""A study's spec and its table: corrections by hand, intervals, missing runs, text and plot."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any

import pytest
from scipy import stats

from qcrd.errors import Invalid
from qcrd.method.evaluation.statistics import wilson_interval
from qcrd.method.evaluation.study_table import (
    StudyRun,
    build_study_table,
)
from qcrd.method.evaluation.verdicts import seeds_needed_by_a_pair
from qcrd.records.base import parse_record
from qcrd.records.reports.verdicts import Verdict
from qcrd.records.specs.study_spec import StudySpec
from qcrd.records.study import StudyComparison, StudyTable
from services.api.studies.markdown import render_markdown
from services.api.studies.svg import render_svg

JOB = {"model": "tiny", "training_file": "file-" + "0" * 24}


def run(
    method: str, seed: int, right: Sequence[int], *, first: int = 0, validation: float = 0.5
) -> StudyRun:
    answers = tuple(map(bool, right))
    measured = wilson_interval(sum(answers), len(answers)) if answers else None
    cost = {"steps": 10, "tokens": 12_345, "flops": 2e9, "seconds": 4.0}
    return StudyRun(
        method=method,
        seed=seed,
        test=measured.model_copy(update=cost) if measured else None,
        validation=wilson_interval(round(validation * 10), 10),
        questions=tuple(f"q{first + place}" for place in range(len(answers))),
        right=answers,
    )


def test_a_complete_table() -> None:
    """qcrd .75 and .50, finetune .50 and .25: differences .25 at both seeds, means .625, .375."""
    runs = [
        run("qcrd", 0, [1, 1, 1, 0]),
        run("qcrd", 1, [1, 1, 0, 0]),
        run("finetune", 0, [1, 1, 0, 0]),
        run("finetune", 1, [1, 0, 0, 0]),
    ]
    table = build_study_table(["qcrd", "finetune"], [0, 1], "finetune", runs, has_test_file=True)
    assert (table.measured, table.questions, table.notes) == ("test", 4, ())
    qcrd, finetune = table.rows
    assert (qcrd.n, qcrd.of, qcrd.accuracy, qcrd.interval) == (2, 2, 0.625, "t")
    # two values d apart: half width t(.975, 1) * (d / sqrt 2) / sqrt 2 = 12.706 * 0.125
    assert stats.t.ppf(0.975, 1) * 0.125 == pytest.approx(1.588, abs=1e-3)
    assert (qcrd.low, qcrd.high) == (0.0, 1.0)
    assert [(one.seed, one.accuracy) for one in qcrd.by_seed] == [(0, 0.75), (1, 0.5)]
    assert (qcrd.steps, qcrd.tokens, qcrd.flops) == (10, 12_345, 2e9)
    assert (qcrd.seconds, qcrd.validation) == (4.0, 0.5)
    assert "| steps | tokens | compute | seconds |" in render_markdown(table)
    assert "|    10 | 12,345 |" in render_markdown(table)
    assert finetune.comparison is None
    found = qcrd.comparison
    assert found is not None
    assert (found.seeds, found.n, found.difference) == ((0, 1), 4, 0.25)
    assert [(t.only_method, t.only_baseline, t.p) for t in found.by_seed] == [(1, 0, 1.0)] * 2
    # The same difference under both seeds has no scatter, and two seeds are too few.
    assert (found.over_seeds, found.verdict) == (None, Verdict.CANNOT_TELL)
    assert found.seeds_needed == seeds_needed_by_a_pair(1, 0, 4)
    assert (
        build_study_table(["qcrd", "finetune"], [0, 1], "finetune", runs, has_test_file=True)
        == table
    )


def make_runs(method: str, right: Sequence[int], questions: int = 200) -> list[StudyRun]:
    """One run for each seed, of which so many answers are right."""
    return [
        run(method, seed, [1] * count + [0] * (questions - count))
        for seed, count in enumerate(right)
    ]


def find_comparison(table: StudyTable, method: str) -> StudyComparison:
    (found,) = (row.comparison for row in table.rows if row.method == method)
    assert found is not None
    return found


def test_five_seeds_have_a_verdict_that_is_the_t_test_s() -> None:
    """Of 200: 10, 14, 12, 9 and 11 more (5.6 points, t 12), 1, 0, -1, 1, -1 (below 1.5), and
    20, -18, 15, -12, 4."""
    base = [100, 102, 98, 101, 99]
    gains = {
        "better": [10, 14, 12, 9, 11],
        "worse": [-10, -14, -12, -9, -11],
        "same": [1, 0, -1, 1, -1],
        "loose": [20, -18, 15, -12, 4],
    }
    runs = make_runs("base", base)
    for method, gain in gains.items():
        runs += make_runs(method, [a + b for a, b in zip(base, gain, strict=True)])
    methods = [*gains, "base"]
    table = build_study_table(methods, range(5), "base", runs, has_test_file=True, draws=200)
    found = {method: find_comparison(table, method) for method in gains}
    assert {method: str(one.verdict) for method, one in found.items()} == {
        "better": "better",
        "worse": "worse",
        "same": "no difference",
        "loose": "cannot tell",
    }
    test = found["better"].over_seeds
    assert test is not None
    expected = stats.ttest_1samp([gain / 200 for gain in gains["better"]], 0)
    assert test.p == pytest.approx(expected.pvalue, rel=1e-6)
    assert test.p_holm == pytest.approx(4 * test.p)
    interval = expected.confidence_interval()
    assert (test.low, test.high) == pytest.approx((interval.low, interval.high))
    assert [found[method].seeds_needed is None for method in gains] == [True, True, True, False]
    narrow = build_study_table(
        methods, range(5), "base", runs, has_test_file=True, margin=0.002, draws=200
    )
    assert find_comparison(narrow, "same").verdict == Verdict.CANNOT_TELL
    text = render_markdown(table)
    assert "corrected for the 4 methods (Holm)" in text
    assert "- no difference: it finds less than 1.5 points of one" in text
    assert "finds less than 0.2 points" in render_markdown(narrow)


def test_what_is_plain_under_four_seeds_is_not_told() -> None:
    """30 of 40 more each time: by McNemar p is 2 / 2^30 for each, of the methods nothing."""
    runs = [*make_runs("a", [30, 31, 30, 32], 40), *make_runs("base", [0, 0, 0, 0], 40)]
    table = build_study_table(["a", "base"], range(4), "base", runs, has_test_file=True)
    found = find_comparison(table, "a")
    assert found.by_seed[0].p == pytest.approx(2 * 0.5**30)
    assert found.low > 0
    assert found.p_holm == found.p < 0.001
    assert (found.verdict, found.seeds_needed) == (Verdict.CANNOT_TELL, 22)
    (line,) = [x for x in render_markdown(table).splitlines() if "cannot tell |" in x]
    assert line.endswith("| cannot tell |     about 22 |")


def test_seeds_that_one_of_both_lacks_do_not_count() -> None:
    runs = [*make_runs("a", [110, 112, 114, 111, 113]), *make_runs("base", [100] * 5)]
    methods = ["a", "failed", "base"]
    whole = build_study_table(methods, range(5), "base", runs, has_test_file=True, draws=200)
    test = find_comparison(whole, "a").over_seeds
    assert test is not None
    assert test.p_holm == pytest.approx(2 * test.p), "the row that failed is one of the study's"
    assert find_comparison(whole, "a").verdict == Verdict.BETTER
    fewer = build_study_table(methods, range(5), "base", runs[:-1], has_test_file=True, draws=200)
    assert find_comparison(fewer, "a").seeds == (0, 1, 2, 3)
    assert find_comparison(fewer, "a").verdict == Verdict.CANNOT_TELL
    assert any("they may still change" in note for note in fewer.notes)


def test_seeds_that_change_nothing_are_told() -> None:
    runs = [*make_runs("a", [110] * 5), *make_runs("base", [100] * 5)]
    table = build_study_table(["a", "base"], range(5), "base", runs, has_test_file=True, draws=99)
    found = find_comparison(table, "a")
    assert (found.verdict, found.seeds_needed) == (Verdict.CANNOT_TELL, None)
    assert any("the same under every seed" in note for note in table.notes)
    assert "cannot tell" in render_markdown(table)


def test_a_table_of_before_is_still_read() -> None:
    runs = [*make_runs("a", [110] * 5), *make_runs("base", [100] * 5)]
    table = build_study_table(["a", "base"], range(5), "base", runs, has_test_file=True, draws=99)
    stored = table.model_dump(mode="json")
    del stored["equivalence_margin"]
    for name in ("over_seeds", "verdict", "seeds_needed"):
        del stored["rows"][0]["comparison"][name]
    read = StudyTable.model_validate(stored)
    assert find_comparison(read, "a").verdict == Verdict.CANNOT_TELL


def test_n_of_k_when_some_runs_are_missing() -> None:
    runs = [run("qcrd", 1, [1, 1]), run("finetune", 0, [1, 0]), run("finetune", 1, [0, 0])]
    table = build_study_table(
        ["qcrd", "dss", "finetune"], [0, 1], "finetune", runs, has_test_file=True
    )
    assert [(row.n, row.of) for row in table.rows] == [(1, 2), (0, 2), (2, 2)]
    qcrd, dss, _ = table.rows
    assert qcrd.comparison is not None
    assert (qcrd.comparison.seeds, qcrd.comparison.difference) == ((1,), 1.0)
    assert (dss.accuracy, dss.comparison) == (None, None)
    assert any("qcrd 1 of 2, dss 0 of 2" in note for note in table.notes)
    assert not any("not compared" in note for note in table.notes)


def test_one_seed_has_the_interval_of_its_questions() -> None:
    table = build_study_table(
        ["a", "b"], [7], "b", [run("a", 7, [1, 0, 1]), run("b", 7, [0, 0, 1])], has_test_file=True
    )
    expected = wilson_interval(2, 3)
    row = table.rows[0]
    assert (row.low, row.high, row.interval) == (expected.low, expected.high, "wilson")
    assert any("Wilson" in note for note in table.notes)


def test_without_a_test_file_validation_is_shown_and_nothing_compared() -> None:
    runs = [run(m, s, [], validation=0.6) for m in ("a", "b") for s in (0, 1)]
    table = build_study_table(["a", "b"], [0, 1], "b", runs, has_test_file=False)
    assert (table.measured, table.questions) == ("validation", None)
    assert [row.accuracy for row in table.rows] == [0.6, 0.6]
    assert all(row.comparison is None for row in table.rows)
    assert any("no test file" in note for note in table.notes)


def test_runs_on_other_questions_are_not_compared() -> None:
    runs = [run("a", 0, [1, 0]), run("b", 0, [1, 0], first=5)]
    table = build_study_table(["a", "b"], [0], "b", runs, has_test_file=True)
    assert table.rows[0].comparison is None
    assert any("not compared with b" in note for note in table.notes)


def test_no_run_at_all_is_a_table_too() -> None:
    table = build_study_table(["a", "b"], [0, 1], "b", [], has_test_file=True)
    assert [(row.n, row.accuracy) for row in table.rows] == [(0, None), (0, None)]
    assert "0 of 2" in render_markdown(table)
    ET.fromstring(render_svg(table))


# --- the spec ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"methods": []}, "methods"),
        ({"methods": ["qcrd", "qcrd"]}, "methods.1"),
        ({"methods": ["qcrd", "magic"]}, "methods.1"),
        ({"methods": ["qcrd", {"name": "x", "method": "magic"}]}, "methods.1.method"),
        ({"methods": ["qcrd", {"name": "a | b", "method": "dss"}]}, "methods.1.name"),
        ({"methods": ["qcrd", {"name": "", "method": "dss"}]}, "methods.1.name"),
        ({"methods": ["qcrd", {"name": "x", "method": "dss", "n": 1}]}, "methods.1.n"),
        ({"methods": ["qcrd", {"name": "dpo", "method": "dss"}]}, "methods.1.name"),
        ({"methods": ["qcrd", *[{"name": "x", "method": "dss"}] * 2]}, "methods.2"),
        (
            {"methods": ["qcrd", {"name": "x", "method": "finetune_equal_compute"}]},
            "methods.1.method",
        ),
        (
            {"methods": ["qcrd", {"name": "x", "method": "dss", "settings": {"task": {}}}]},
            "methods.1.settings.task",
        ),
        (
            {"methods": [{"name": "x", "method": "dss", "settings": {"loss": {"beta": -1}}}]}
            | {"baseline": "x"},
            "methods.0.settings.loss.beta",
        ),
        ({"trials": [{"learning_rate": 1e-4}, {"learning_rate": 7}]}, "trials.1.learning_rate"),
        ({"trials": [{"rate": 1}]}, "trials.0.rate"),
        ({"trials": [{"validation_share": 0.5}]}, "trials.0.validation_share"),
        ({"trials": [{"precision": "fp32"}]}, "trials.0.precision"),
        ({"trials": [{}, {}]}, "trials.1"),
        ({"methods": ["qcrd", None]}, "methods.1"),
        ({"methods": ["qcrd", {"name": "teacher", "method": "dss"}]}, "methods.1.name"),
        ({"seeds": list(range(40)), "trials": [{"iterations": i} for i in (1, 2, 3)]}, "seeds"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "seeds.1"),
        ({"seeds": [-1]}, "seeds.0"),
        ({"seeds": list(range(200))}, "seeds"),
        ({"baseline": "dss"}, "baseline"),
        ({"equivalence_margin": 0}, "equivalence_margin"),
        ({"equivalence_margin": 1.5}, "equivalence_margin"),
        ({"methods": ["finetune_equal_compute", "finetune"]}, "methods"),
        ({"colour": 1}, "colour"),
        ({"job": {**JOB, "colour": 1}}, "job.colour"),
        ({"job": {**JOB, "method": {"type": "magic"}}}, "job.method.type"),
        (
            {"job": {**JOB, "method": {"type": "dss", "dss": {"loss": {"beta": -1}}}}},
            "job.method.dss.loss.beta",
        ),
        (
            {"job": {**JOB, "method": {"type": "dss", "dss": {"baselines": ["qcrd"]}}}},
            "job.method.dss.baselines",
        ),
        ({"job": 7}, "job"),
    ],
)
def test_a_wrong_study_is_refused_by_path(change: dict[str, Any], param: str) -> None:
    body = {"job": JOB, "methods": ["qcrd", "finetune", "finetune_equal_compute"], "seeds": [0, 1]}
    with pytest.raises(Invalid) as caught:
        parse_record(StudySpec, body | change)
    assert caught.value.param == param
    assert f"`{param.split('.')[0]}" in caught.value.message


def test_the_reference_of_equal_compute_is_qcrd_or_else_the_last_that_learns_from_rationales() -> (
    None
):
    def reference(*methods: str) -> str | None:
        found = parse_record(
            StudySpec, {"job": JOB, "methods": methods, "baseline": methods[0]}
        ).compute_reference
        return found.name if found else None

    assert reference("finetune") is None
    assert reference("dss", "qcrd", "dss+positives", "finetune_equal_compute") == "qcrd"
    assert reference("single_task", "dss", "finetune_equal_compute") == "dss"


# --- text and plot -----------------------------------------------------------------------------


@pytest.fixture
def table() -> StudyTable:
    runs = [
        run("qcrd", 0, [1] * 30 + [0] * 10),
        run("qcrd", 1, [1] * 28 + [0] * 12),
        run("finetune", 0, [1] * 20 + [0] * 20),
    ]
    return build_study_table(
        ["qcrd", "dss", "finetune"],
        [0, 1],
        "finetune",
        runs,
        has_test_file=True,
        references={"teacher": wilson_interval(36, 40), "a<b": wilson_interval(4, 40)},
    )


def test_markdown_has_a_row_per_method_and_every_row_the_same_cells(table: StudyTable) -> None:
    text = render_markdown(table)
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1
        assert len({len(line) for line in lines}) <= 1
    assert "| qcrd     | 2 of 2 |    0.725 |" in text
    assert "| dss      | 0 of 2 |" in text
    assert "0: 0.750, 1: 0.700" in text
    assert "| qcrd   |     1 |     +0.250 |" in text
    assert "- not all seeds have succeeded: dss 0 of 2, finetune 1 of 2" in text


def test_the_plot_is_svg_whose_dots_are_where_the_axis_says(table: StudyTable) -> None:
    root = ET.fromstring(render_svg(table))
    space = "{http://www.w3.org/2000/svg}"
    texts = [(t.text or "", float(t.get("x") or 0)) for t in root.iter(f"{space}text")]
    words = [text for text, _ in texts]
    assert {"qcrd", "dss (0 of 2)", "finetune (1 of 2)", "accuracy", "a<b 0.100"} <= set(words)
    ticks = {float(text): x for text, x in texts if text.replace(".", "").isdigit()}
    (low, at_low), (high, at_high) = min(ticks.items()), max(ticks.items())
    dots = {next(iter(dot)).text: float(dot.get("cx") or 0) for dot in root.iter(f"{space}circle")}
    assert set(dots) == {"qcrd: 0.725", "seed 0: 0.750", "seed 1: 0.700", "finetune: 0.500"}
    for told, x in dots.items():
        value = float(str(told).split(": ")[1])
        expected = at_low + (value - low) / (high - low) * (at_high - at_low)
        assert x == pytest.approx(expected, abs=0.2)
    width, height = (float(root.get(name) or 0) for name in ("width", "height"))
    assert all(0 <= x <= width for _, x in texts)
    assert all(math.isfinite(float(t.get("y") or 0)) for t in root.iter(f"{space}text"))
    assert all(float(t.get("y") or 0) <= height for t in root.iter(f"{space}text"))
