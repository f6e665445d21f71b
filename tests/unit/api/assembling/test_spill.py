"""What is kept on disk is what would be kept in memory."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcrd.errors import Transient
from qcrd.method.answers import question_id
from qcrd.questions.duplicates import DuplicateIndex, FirstLines
from qcrd.questions.imported_outputs import match_outputs
from qcrd.questions.rows import QuestionRow
from qcrd.records.job import Stage
from qcrd.records.rationales import Question, RationaleItem, Vote
from qcrd.records.specs.spec import MethodSpec
from qcrd.runtime.jobs.state_machine import with_changes
from qcrd.runtime.storage.store import MemoryStore
from services.api.assembling.serving import MAX_KEPT_TIMES, AnswerTimer
from services.api.assembling.spill.database import SpillDatabase
from services.api.assembling.spill.imports import spill_outputs
from services.api.assembling.spill.questions import SpilledDuplicates, SpilledRows, Split
from services.api.rationale_sets import index
from tests.unit.api.assembling.assembling_bench import MakeBench
from tests.unit.api.assembling.test_generation_cache import Counting
from tests.unit.api.assembling.test_stage import sums


def test_one_prompt_of_two_questions_is_paid_once_and_both_have_its_outputs(
    bench: MakeBench,
) -> None:
    """Choices are no part of the prompt of a number: 3 questions, 2 prompts, 5 samples of each."""
    here = bench()
    rows: list[dict[str, Any]] = [
        {"question": "What is 1 + 1?", "label": "2", "choices": ["2", other]} for other in "34"
    ]
    job = here.run(here.job(here.file([*rows, *sums(1, start=7)])))
    first, second, _ = here.items(job)
    assert here.teacher.answered == 2 * 5
    assert job.usage.teacher_completion_tokens == 2 * 5 * 7
    assert first.vote.counts == second.vote.counts
    counts = here.manifest(job).counts
    assert (counts.outputs, counts.teacher_tokens) == (15, 15 * (11 + 7))
    assert counts.reused == 0
    again = here.manifest(here.run(here.job(here.file([*rows, *sums(1, start=7)])))).counts
    assert again.reused == 15


def test_a_question_of_both_files_has_its_training_outputs_in_the_test_row(
    bench: MakeBench,
) -> None:
    """Two training questions of 5 samples, two test questions of which one is new: 5 + 5 + 1."""
    here = bench()
    job = here.run(here.job(here.file(sums(2)), here.file(sums(2, start=1))))
    assert here.teacher.answered == 11
    serving = here.manifest(job).serving
    assert serving is not None
    assert (serving.questions, serving.completion_tokens) == (2, 6 * 7)
    assert all(item.teacher_asked for item in here.test_items(job))


def test_a_job_that_still_waits_for_its_teacher_reads_no_file(bench: MakeBench) -> None:
    """A worker that only finds out that the teacher is still away is free for another job."""
    here = bench()
    store = here.store = Counting()
    job = here.job(here.file(sums(3)))
    here.teacher.kill()
    first = here.run(job)
    assert first.backoffs == 1
    assert any(key.startswith("uploads/") for key in store.opened)
    store.opened.clear()
    second = here.run(job)
    assert (second.backoffs, second.lease.owner) == (2, "")
    assert not any(key.startswith("uploads/") for key in store.opened)
    here.teacher.start()
    assert here.run(job).stage is Stage.TRAINING


def test_a_job_whose_teachers_upstream_is_away_gives_way_at_once(bench: MakeBench) -> None:
    here = bench()
    store = here.store = Counting()
    job = here.job(here.file(sums(3)))
    here.jobs.update(job.id, lambda held: with_changes(held, backoffs=1, waiting="away"))
    here.teacher.healthy = False
    assert here.run(job).backoffs == 2
    assert here.teacher.requests == []
    assert not any(key.startswith("uploads/") for key in store.opened)


def test_a_set_that_is_refused_leaves_nothing(bench: MakeBench) -> None:
    here = bench(lambda prompt, seed: " I do not know.")
    job = here.run(here.job(here.file(sums(4))))
    assert job.failure is not None
    assert not [key for key in here.store.list("") if key.startswith("rationales/")]


def test_a_worker_that_is_killed_leaves_no_file(tmp_path: Path) -> None:
    """Nothing has a name while the database is used, with more in it than its cache holds."""
    with SpillDatabase(tmp_path) as database:
        rows = ((number, f"{number:024x}", "x" * 4000) for number in range(8000))
        database.execute_many("INSERT INTO import VALUES (?, ?, 'parse', ?)", rows)
        assert list(tmp_path.iterdir()) == []
        assert database.count("SELECT 1 FROM import") == 8000
        last = database.find(
            "SELECT number, LENGTH(text) FROM import WHERE id = ?", (f"{7999:024x}",)
        )
        assert last == (7999, 4000)


def test_a_full_temporary_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(Transient, match="TMPDIR"):
        SpillDatabase(tmp_path / "none")


def test_first_lines_on_disk_are_those_in_memory() -> None:
    with SpillDatabase() as database:
        kept: list[FirstLines] = [DuplicateIndex(), SpilledDuplicates(database)]
        ids = [f"{number % 40:024x}" for number in range(100)]
        for each in kept:
            lines = [each.setdefault(key, line, line % 7) for line, key in enumerate(ids, 1)]
            assert lines == [(line - 1) % 40 + 1 for line in range(1, 101)]
            assert each.has_checksum(ids[9], 10 % 7)
            assert not each.has_checksum(ids[9], 4)


def make_row(line: int, text: str, outputs: tuple[str, ...], explains: bool) -> QuestionRow:
    question = Question(id=question_id(text), text=text, label=str(line % 3))
    return QuestionRow(line, question, outputs, explains)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("stop", [None, ["###"]])
def test_imports_on_disk_are_those_in_memory(seed: int, stop: list[str] | None) -> None:
    """Lines of one output or several, repeated, unused, that explain labels, and that run on."""
    draw = random.Random(seed)
    settings: dict[str, Any] = {"task": {"answer": "number"}}
    if stop is not None:
        settings["rationales"] = {"stop": stop}
    spec = MethodSpec.model_validate(settings)

    def outputs(line: int) -> tuple[str, ...]:
        tails = ("", "", "\n\nPremise: more.\nSo the answer is 9.", "### rest")
        count = draw.choice((0, 1, 1, 2, 3))
        return tuple(f"Way {way}.\nAnswer: {line % 3}{draw.choice(tails)}" for way in range(count))

    names = [f"Premise: {number}?" for number in range(30)]
    imported = [
        make_row(line, draw.choice(names), outputs(line), draw.random() < 0.2)
        for line in range(1, 80)
    ]
    training = [make_row(line, name, (), False) for line, name in enumerate(names[:15], 1)]
    test = [
        make_row(line, name, outputs(line), draw.random() < 0.3)
        for line, name in enumerate(names[12:24], 1)
    ]
    expected = match_outputs(imported, training, test, spec)
    with SpillDatabase() as database:
        spilled = {split: SpilledRows(database, split) for split in Split}
        spilled[Split.TRAINING].fill(training)
        spilled[Split.TEST].fill(test)
        found = spill_outputs(
            database, lambda: imported, spilled[Split.TRAINING], spilled[Split.TEST], spec
        )
        assert dict(found.training) == expected.training
        assert dict(found.test) == expected.test
        assert dict(found.readings) == expected.readings
        assert (len(found.training), len(found.test)) == (
            len(expected.training),
            len(expected.test),
        )
        assert (found.unanswered, found.unused) == (expected.unanswered, expected.unused)
        assert (found.mark, found.run_on) == (expected.mark, expected.run_on)


def test_times_of_many_requests_are_counted_and_sampled() -> None:
    """Of 25,000 requests every second one took two seconds and the others one."""
    timer = AnswerTimer()
    for number in range(MAX_KEPT_TIMES + 5000):
        timer.add(0.0, 1.0 + number % 2, 1)
    times = timer.make_times(8)
    assert times is not None
    assert times.requests == MAX_KEPT_TIMES + 5000
    assert (times.p50 in (1.0, 2.0), times.p95) == (True, 2.0)


def make_item(number: int, rationales: int) -> RationaleItem:
    text = f"What is {number}?"
    made: dict[str, Any] = {
        "question": {"id": question_id(text), "text": text},
        "label": "1",
        "vote": Vote(answer="1", margin=number / 10, tie=False, counts={"1": 1}),
        "positives": [
            {"id": f"{number:012x}{way:012x}", "question_id": question_id(text), "text": "b c"}
            for way in range(rationales)
        ],
    }
    return RationaleItem.model_validate(made)


def test_an_index_written_shard_by_shard_is_the_one_that_is_built() -> None:
    """Three shards, one of which has no rationale at all."""
    shards = [
        [make_item(number, shard % 2) for number in range(3 * shard, 3 * shard + 3)]
        for shard in range(3)
    ]
    store, writer, set_id = MemoryStore(), index.IndexWriter(), "set-" + "0" * 24
    for shard in shards:
        writer.add_shard(shard)
    writer.write(store, set_id)
    built = index.build_index(shards)
    other = MemoryStore()
    index.write_index(other, set_id, built)
    for name in store.list(""):
        with store.open(name) as written, other.open(name) as saved:
            one, two = np.load(written), np.load(saved)
            assert one.files == two.files
            for column in one.files:
                assert one[column].dtype == two[column].dtype
                assert one[column].tolist() == two[column].tolist()
