"""The stage `assembling` through the real pipeline, against a scripted teacher on a real socket."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from qcrd.cli.main import app
from qcrd.method.answers import question_id
from qcrd.records.job import JobStatus, Stage
from qcrd.records.rationales import TestItem
from qcrd.runtime import keys
from qcrd.runtime.jobs import commands as verbs
from qcrd.runtime.storage.json_lines import read_lines
from services.api.assembling.backoff_policy import BackoffPolicy
from services.api.assembling.teacher.tgi_client import install_http_client_factory
from services.api.rationale_sets import index
from tests.conftest import data_folder
from tests.fakes.scripted_teacher import Mood
from tests.unit.api.assembling.assembling_bench import MakeBench


def sums(count: int, start: int = 0) -> list[dict[str, Any]]:
    numbers = range(start, start + count)
    return [{"question": f"What is {i} + 1?", "label": str(i + 1)} for i in numbers]


def test_generates_votes_and_splits(bench: MakeBench) -> None:
    here = bench()
    job = here.run(here.job(here.file(sums(6)), here.file(sums(3, start=50))))
    assert (job.status, job.stage) == (JobStatus.RUNNING, Stage.TRAINING)
    assert here.queue.drain() == [(Stage.TRAINING, job.id)]
    counts = here.manifest(job).counts
    assert (counts.questions, counts.outputs, counts.parsed) == (6, 30, 30)
    assert counts.positives + counts.negatives == 30
    assert counts.majority_right + counts.majority_wrong + counts.ties == 6
    assert here.teacher.answered == 6 * 5 + 3 * 1
    assert job.usage.teacher_prompt_tokens == 33 * 11
    assert job.usage.teacher_completion_tokens == 33 * 7
    for item in here.items(job):
        assert item.label == item.question.label
        assert {r.answer for r in item.positives} == {item.vote.answer}
        assert all(r.answer != item.vote.answer for r in item.negatives)
    assert all(item.teacher_asked and item.teacher_answer for item in here.test_items(job))


def test_requests_are_what_a_tgi_server_needs(
    bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even the hub token that this machine may be logged in with goes to a teacher."""
    monkeypatch.setenv("HF_TOKEN", "hf_of_this_machine")
    here = bench()
    here.run(here.job(here.file(sums(2)), rationales={"n": 3, "temperature": 0.7}))
    parameters = [request["parameters"] for request in here.teacher.requests]
    assert all(request["stream"] for request in here.teacher.requests)
    assert all(p["do_sample"] and p["temperature"] == 0.7 for p in parameters)
    assert all(p["details"] and p["return_full_text"] is False for p in parameters)
    assert len({p["seed"] for p in parameters}) == 6
    assert all("authorization" not in headers for headers in here.teacher.headers)


def test_greedy_asks_once_without_a_temperature(bench: MakeBench) -> None:
    here = bench()
    job = here.run(here.job(here.file(sums(2)), rationales={"n": 5, "temperature": 0}))
    assert len(here.teacher.requests) == 2
    assert "temperature" not in here.teacher.requests[0]["parameters"] or (
        here.teacher.requests[0]["parameters"]["temperature"] is None
    )
    assert here.manifest(job).counts.outputs == 2


def test_a_second_job_spends_nothing(bench: MakeBench) -> None:
    here = bench()
    training, test = here.file(sums(5)), here.file(sums(3, start=50))
    first = here.run(here.job(training, test))
    asked = len(here.teacher.requests)
    second = here.run(here.job(training, test))
    assert len(here.teacher.requests) == asked
    assert second.usage.teacher_prompt_tokens == second.usage.teacher_completion_tokens == 0
    assert here.manifest(second).counts.reused == 25
    assert here.items(first) == here.items(second)
    assert here.ledger.read_all("anything") == {}


def test_more_samples_cost_only_the_difference(bench: MakeBench) -> None:
    here = bench()
    training = here.file(sums(4))
    here.run(here.job(training, rationales={"n": 3}))
    here.run(here.job(training, rationales={"n": 5}))
    assert here.teacher.answered == 4 * 5


def test_another_model_is_asked_anew(bench: MakeBench) -> None:
    here = bench()
    training = here.file(sums(3))
    here.run(here.job(training))
    here.teacher.model = "scripted/other"
    here.run(here.job(training))
    assert here.teacher.answered == 2 * 15


@pytest.mark.parametrize("refusal", ["busy", "busy_in_stream"])
def test_refusals_shrink_the_window_and_lose_nothing(bench: MakeBench, refusal: Mood) -> None:
    """Every third of the first 150 requests is refused, which is more than the client's pool."""
    here = bench(
        mood=lambda number: refusal if number < 150 and number % 3 == 0 else "ok",
        concurrency=16,
    )
    job = here.run(here.job(here.file(sums(30))))
    assert job.stage is Stage.TRAINING
    assert here.teacher.answered == 150
    assert here.teacher.most_flying <= 16


def test_a_full_teacher_is_waited_for_and_then_left(bench: MakeBench) -> None:
    here = bench(mood=lambda number: "busy")
    job = here.run(
        here.job(here.file(sums(3))), BackoffPolicy(0.05, 0.01, 0.05, 0.3, overload_timeout=0.3)
    )
    assert job.status is JobStatus.RUNNING
    assert job.waiting
    assert "overloaded" in job.waiting
    assert job.attempt == 0


def test_broken_streams_are_asked_again(bench: MakeBench) -> None:
    here = bench(mood=lambda number: "cut" if number in (0, 4, 7) else "ok")
    job = here.run(here.job(here.file(sums(4))))
    assert job.stage is Stage.TRAINING
    assert here.teacher.answered == 20


def test_death_in_the_middle_is_waited_out(bench: MakeBench) -> None:
    """The job says why it waits, goes on when the teacher is back, and asks nothing twice."""
    here = bench(delay=0.05, concurrency=4)
    job = here.job(here.file(sums(10)))
    seen: list[str] = []

    def outage() -> None:
        while here.teacher.answered < 12:
            time.sleep(0.01)
        here.teacher.kill()
        deadline = time.monotonic() + 60
        while not seen and time.monotonic() < deadline:
            if waiting := here.jobs.get(job.id).waiting:
                seen.append(waiting)
            time.sleep(0.01)
        here.teacher.start()

    other = threading.Thread(target=outage)
    other.start()
    after = here.run(job)
    other.join()
    assert after.stage is Stage.TRAINING
    assert after.waiting is None
    assert "teacher default does not respond" in seen[0]
    assert here.teacher.answered <= 50 + 4
    assert here.manifest(after).counts.outputs == 50
    assert any("are kept" in message for message in here.said(job))


def test_a_teacher_that_stays_away_gives_way_to_other_jobs(bench: MakeBench) -> None:
    here = bench(delay=0.02, concurrency=2)
    job = here.job(here.file(sums(10)))

    def die() -> None:
        while here.teacher.answered < 10:
            time.sleep(0.01)
        here.teacher.kill()

    other = threading.Thread(target=die)
    other.start()
    waiting = here.run(job, BackoffPolicy(0.05, 0.02, 0.1, outage_timeout=0.3))
    other.join()
    assert waiting.status is JobStatus.RUNNING
    assert waiting.waiting
    assert (waiting.attempt, waiting.lease.owner) == (0, "")
    assert here.queue.drain() == [(Stage.ASSEMBLING, job.id)]
    answered = here.teacher.answered
    here.teacher.start()
    after = here.run(job)
    assert after.stage is Stage.TRAINING
    # What it died with in its mouth, one answer per connection, may be asked for again.
    assert 50 <= here.teacher.answered <= 50 + 2
    # Paid over both attempts, counted once, and with it the first token of those that broke off.
    assert 50 * 7 <= after.usage.teacher_completion_tokens <= 50 * 7 + 2
    assert answered >= 10


def test_a_teacher_that_is_down_from_the_start_is_waited_for(bench: MakeBench) -> None:
    here = bench()
    here.teacher.kill()
    job = here.run(here.job(here.file(sums(2))))
    assert job.status is JobStatus.RUNNING
    assert job.waiting
    assert job.backoffs == 1


def test_an_engine_that_fails_on_a_prompt_fails_the_job_with_its_words(bench: MakeBench) -> None:
    here = bench(mood=lambda number: "engine")
    job = here.run(here.job(here.file(sums(1)), rationales={"n": 1}))
    assert job.status is JobStatus.FAILED
    assert job.failure
    assert job.failure.code == "teacher_failed"
    assert "out of memory" in job.failure.message


def test_cancelling_stops_the_requests_and_keeps_what_was_answered(bench: MakeBench) -> None:
    here = bench(delay=0.05, concurrency=2)
    training = here.file(sums(40))
    job = here.job(training)

    def cancel() -> None:
        while here.teacher.answered < 6:
            time.sleep(0.01)
        verbs.transition_job(here.jobs, job.id, JobStatus.CANCELLED)

    other = threading.Thread(target=cancel)
    other.start()
    after = here.run(job)
    other.join()
    assert after.status is JobStatus.CANCELLED
    paid = here.teacher.answered
    assert 6 <= paid < 200
    here.teacher.delay = 0.0
    here.run(here.job(training))
    # At most the two requests in flight were answered in vain.
    assert here.teacher.answered <= 200 + 2


def test_unreadable_outputs_are_counted_and_said(bench: MakeBench) -> None:
    known = "What is 0 plus 1?"
    rows = [{"question": known, "label": "1"}, *sums(4)[1:]]
    here = bench(
        lambda prompt, seed: " One.\n<Answer>: 1" if known in prompt[-60:] else " I do not know."
    )
    job = here.run(here.job(here.file(rows), rationales={"max_unreadable_share": 0.75}))
    counts = here.manifest(job).counts
    assert (counts.outputs, counts.parsed, counts.unparseable) == (20, 5, 15)
    assert (counts.majority_right, counts.majority_wrong, counts.positives) == (1, 0, 5)
    assert len(here.items(job)) == 4
    assert any("no readable answer" in message for message in here.said(job))


def test_a_job_whose_outputs_are_mostly_unreadable_ends_before_it_trains(bench: MakeBench) -> None:
    """Two of four are allowed, three of five are not."""
    rows = [{"question": f"{kind} {n}?", "label": "1"} for n in "ab" for kind in ("Known", "Dark")]
    here = bench(
        lambda prompt, seed: " One.\n<Answer>: 1" if "Known" in prompt[-40:] else " Who knows."
    )
    half = here.run(here.job(here.file(rows), rationales={"n": 1}))
    assert half.failure is None
    rows.append({"question": "Dark c?", "label": "1"})
    most = here.run(here.job(here.file(rows), rationales={"n": 1}))
    assert most.failure is not None
    assert most.failure.code == "mostly_unreadable"
    assert "3 of the 5 outputs" in most.failure.message
    assert most.failure.message.count("Who knows.") == 3
    assert "`method.qcrd.rationales.max_unreadable_share`" in most.failure.message


def test_a_job_whose_outputs_are_all_unreadable_fails_and_shows_some(bench: MakeBench) -> None:
    here = bench(lambda prompt, seed: " I do not know.")
    job = here.run(here.job(here.file(sums(4))))
    assert job.status is JobStatus.FAILED
    assert job.failure is not None
    assert (job.failure.code, job.failure.param) == ("nothing_readable", "method.qcrd.rationales")
    assert "20 of the 20 outputs have no readable answer" in job.failure.message
    assert "I do not know." in job.failure.message
    answered = here.teacher.answered
    here.run(here.job(here.file(sums(4))))
    assert here.teacher.answered == answered  # what was paid is kept


def test_the_stop_sequence_is_not_part_of_the_answer(bench: MakeBench) -> None:
    here = bench(lambda p, s: " Because.\n<Answer>: 7 END", finish_reason="stop_sequence")
    job = here.run(
        here.job(here.file([{"question": "7?", "label": "7"}]), rationales={"stop": ["END"]})
    )
    assert here.manifest(job).counts.majority_right == 1


def test_label_mode_llm_learns_the_vote(bench: MakeBench) -> None:
    here = bench()
    rows = [{"question": f"What is {i} + 1?"} for i in range(4)]
    job = here.run(here.job(here.file(rows), label_mode="llm"))
    assert all(item.label == item.vote.answer is not None for item in here.items(job))
    counts = here.manifest(job).counts
    assert counts.majority_right == counts.majority_wrong == 0


def test_finetuning_asks_no_teacher(bench: MakeBench) -> None:
    here = bench()
    job = here.run(here.job(here.file(sums(4)), kind="finetune"))
    assert here.teacher.requests == []
    assert [item.label for item in here.items(job)] == ["1", "2", "3", "4"]


def test_own_validation_questions_are_kept_apart(bench: MakeBench) -> None:
    here = bench()
    job = here.job(here.file(sums(3)))
    spec = job.spec.model_copy(update={"validation_file": here.file(sums(2, start=20))})
    here.jobs.update(job.id, lambda j: j.model_copy(update={"spec": spec}))
    manifest = here.manifest(here.run(job))
    assert manifest.validation is not None
    held_back = list(read_lines(here.store, manifest.validation, TestItem))
    assert [item.gold for item in held_back] == ["21", "22"]


# --- imports -----------------------------------------------------------------------------------


def test_imported_outputs_are_matched_by_question_and_choices(bench: MakeBench) -> None:
    here = bench()
    task = {"answer": "choice"}
    training = [
        {"question": "Where?", "choices": ["park", "zoo"], "label": "zoo"},
        {"question": "Where?", "choices": ["park", "sea"], "label": "sea"},
        {"question": "Who?", "choices": ["he", "she"], "label": "he"},
    ]
    imported = [
        {**training[0], "teacher_output": "Animals. So the answer is (b) zoo.\n\nQ: next?"},
        {
            **training[1],
            "outputs": ["Fish. The answer is (b).", "Trees. The answer is (a).", "No idea"],
        },
        {"question": "Unused?", "choices": ["a b", "c d"], "teacher_output": "x"},
    ]
    job = here.run(
        here.job(here.file(training), task=task, rationales={"import": here.file(imported)})
    )
    assert here.teacher.requests == []
    items = {item.question.choices: item for item in here.items(job)}
    assert [r.answer for r in items["park", "zoo"].positives] == ["zoo"]
    assert items["park", "sea"].vote.tie
    assert items["park", "sea"].vote.unparseable == 1
    assert items["he", "she"].positives == ()
    counts = here.manifest(job).counts
    assert (counts.questions, counts.outputs, counts.parsed, counts.unparseable) == (3, 4, 3, 1)
    assert (counts.majority_right, counts.majority_wrong, counts.ties) == (1, 0, 1)
    assert any("1 training questions have no imported output" in m for m in here.said(job))


def test_imported_answers_may_be_taken_from_the_label(bench: MakeBench) -> None:
    here = bench()
    rows = [{"question": "ab cd?", "label": "bd", "rationales": ["b then d.", "We get: bd"]}]
    file = here.file(rows)
    job = here.run(
        here.job(
            file,
            task={"answer": "text"},
            rationales={"import": file, "imported_answer": "label"},
        )
    )
    (item,) = here.items(job)
    assert [r.text for r in item.positives] == ["b then d.", "We get: bd"]
    assert {r.answer for r in item.positives} == {"bd"}


def test_rationales_explain_their_label_and_outputs_are_read(bench: MakeBench) -> None:
    """Each text as it stands; a test line's rationales are no answers of the teacher's."""
    here = bench()
    rows = [
        {"question": "A?", "label": "4", "rationales": ["Two and two.", "It is 5, no: 4."]},
        {"question": "B?", "label": "5", "teacher_outputs": ["So five.\nAnswer: 5", "Answer: 6"]},
    ]
    test = [{"question": "C?", "label": "7", "rationales": ["Seven."]}]
    file = here.file(rows)
    spec = {"import": file, "max_unreadable_share": 1}
    job = here.run(here.job(file, here.file(test), rationales=spec))
    first, second = here.items(job)
    assert [each.text for each in first.positives] == ["Two and two.", "It is 5, no: 4."]
    assert [each.text for each in second.positives] == ["So five."]
    assert here.test_items(job)[0].teacher_asked is False
    parsed = here.run(here.job(file, rationales={**spec, "answers": "parse"}))
    assert here.manifest(parsed).counts.parsed == 1
    taken = here.run(here.job(file, rationales={**spec, "answers": "label"}))
    assert here.manifest(taken).counts.positives == 4
    last = here.run(here.job(file, rationales={**spec, "answers": "last"}))
    assert [each.answer for each in here.items(last)[0].positives] == ["4"]


def test_rationales_that_end_in_another_answer_are_told(bench: MakeBench) -> None:
    """The label decides: they are its positives all the same."""
    here = bench()
    rows = [
        {"question": f"{n} + 1?", "label": str(n + 1), "rationales": [f"Add.\nAnswer: {said}"]}
        for n, said in ((1, 2), (2, 9), (3, 8))
    ]
    file = here.file(rows)
    job = here.run(here.job(file, rationales={"import": file}))
    assert [len(item.positives) for item in here.items(job)] == [1, 1, 1]
    (told,) = [one for one in here.said(job) if "another answer than the label" in one]
    assert told.startswith("2 rationales end in another answer")
    assert "(first: line 2: 'Add.\\nAnswer: 9' answers '9', the label is '3')" in told


def test_imported_outputs_that_run_on_are_cut_at_what_repeats(bench: MakeBench) -> None:
    """A next question in the form of somebody's own prompt, whose answer is not this one's."""
    here = bench()
    rows = [
        {
            "question": f"Premise: {number} cats.\nHypothesis: a cat.",
            "label": "yes",
            "teacher_output": f"There are {number}. So the answer is yes.\n\n"
            f"Premise: {number} dogs.\nHypothesis: A cat.\nA: None. So the answer is no.",
        }
        for number in range(1, 9)
    ]
    file = here.file(rows)
    task = {"answer": "label", "labels": ["yes", "no"]}
    job = here.run(here.job(file, task=task, rationales={"import": file}))
    assert here.manifest(job).counts.majority_right == 8
    assert [each.text for each in here.items(job)[0].positives] == ["There are 1."]
    (said,) = [each for each in here.said(job, "info") if "run on" in each]
    assert said.startswith("8 imported outputs run on")
    assert "`Premise:`" in said


@pytest.mark.parametrize("order", [1, -1])
def test_each_text_of_a_question_is_read_as_its_own_line_says(bench: MakeBench, order: int) -> None:
    here = bench()
    question = {"question": "2+3?", "label": "5"}
    rows = [
        {**question, "teacher_output": "wrong. The answer is 6."},
        {**question, "rationales": ["two and three make five"]},
        {"question": "1+1?", "label": "2", "teacher_output": "Two. The answer is 2."},
    ]
    file = here.file(rows[::order] if order == 1 else [*rows[1::-1], rows[2]])
    job = here.run(here.job(file, rationales={"import": file, "positive_rule": "gold"}))
    item = next(each for each in here.items(job) if each.question.text == "2+3?")
    assert [each.text for each in item.positives] == ["two and three make five"]
    assert [each.answer for each in item.negatives] == ["6"]


def test_questions_that_lack_a_column_of_their_template_are_told(bench: MakeBench) -> None:
    here = bench()
    rows = [{"a": f"What is {n} plus 1?", "b": "Say." if n else None, "n": n + 1} for n in range(4)]
    task = {"answer": "number", "fields": {"question": "{b}\\n{a}", "label": "n"}}
    job = here.run(here.job(here.file(rows), task=task, rationales={"n": 1}))
    assert here.items(job)[0].question.text == "What is 0 plus 1?"
    (said,) = [each for each in here.said(job) if "lack a column" in each]
    assert said.startswith("1 questions lack")
    assert "line 1, `b`" in said


def test_an_import_that_answers_nothing_ends_before_it_trains(bench: MakeBench) -> None:
    here = bench()
    file, other = here.file(sums(3)), here.file([{"question": "x?", "teacher_output": "a"}])
    job = here.run(here.job(file, rationales={"import": other}))
    assert job.failure is not None
    assert job.failure.code == "nothing_imported"


def test_outputs_in_the_training_file_are_not_passed_over_in_silence(bench: MakeBench) -> None:
    here = bench()
    rows = [{**row, "teacher_output": "One. Answer: 1"} for row in sums(3)]
    job = here.run(here.job(here.file(rows), rationales={"n": 1}))
    assert any("3 lines of the training file" in said for said in here.said(job))


def test_imported_outputs_end_at_the_stop_sequences_that_are_named(bench: MakeBench) -> None:
    here = bench()
    output = "Two. The answer is 2. ### Three. The answer is 3."
    file = here.file([{"question": "A?", "label": "2", "teacher_output": output}])
    job = here.run(here.job(file, rationales={"import": file, "stop": ["###"]}))
    assert [each.answer for each in here.items(job)[0].positives] == ["2"]


def test_the_setting_that_reads_imported_texts_is_named(bench: MakeBench) -> None:
    here = bench()
    rows = [
        {"question": f"{number}?", "label": str(number), "outputs": [f"One by one: {number} now."]}
        for number in range(4)
    ]
    file = here.file(rows)
    job = here.run(here.job(file, rationales={"import": file}))
    assert job.failure is not None
    assert "`method.qcrd.rationales.answers: label` takes 4 of 4" in job.failure.message
    assert "`method.qcrd.rationales.answers: last`" in job.failure.message
    assert "which is the label in 4 of 4" in job.failure.message


def test_a_test_file_brings_its_own_teacher_outputs(bench: MakeBench) -> None:
    here = bench()
    training = [{**row, "teacher_output": "One. So the answer is 1."} for row in sums(3)]
    test = [
        {"question": "A?", "label": "4", "teacher_output": "Two and two. The answer is 4."},
        {"question": "B?", "label": "5"},
    ]
    file = here.file(training)
    job = here.run(here.job(file, here.file(test), rationales={"import": file}))
    first, second = here.test_items(job)
    assert (first.teacher_asked, first.teacher_answer) == (True, "4")
    assert (second.teacher_asked, second.teacher_answer) == (False, None)


def test_a_method_of_labels_only_compares_with_a_test_file_s_answers_too(bench: MakeBench) -> None:
    here = bench()
    test = [
        {"question": "A?", "label": "4", "teacher_output": "Two and two. The answer is 4."},
        {"question": "B?", "label": "5"},
    ]
    job = here.run(here.job(here.file(sums(3)), here.file(test), "finetune"))
    first, second = here.test_items(job)
    assert (first.teacher_asked, first.teacher_answer) == (True, "4")
    assert second.teacher_asked is False


# --- real data ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "body", "right"),
    [
        # PaLM's answers are right for about 74 % of SVAMP's training questions.
        ("svamp", {"task": {"answer": "number"}}, (0.73, 0.75)),
        (
            "tracking",
            {"task": {"answer": "label", "labels": ["A", "B", "C"]}},
            (1.0, 1.0),
        ),
        ("svamp_gpt35", {"task": {"answer": "number"}}, (1.0, 1.0)),
        ("last_letter", {"task": {"answer": "text"}}, (1.0, 1.0)),
    ],
)
def test_published_outputs_import_with_the_known_share_right(
    bench: MakeBench, name: str, body: dict[str, Any], right: tuple[float, float]
) -> None:
    folder, here = data_folder(name), bench()
    given = {
        half: [json.loads(line) for line in (folder / f"{half}.jsonl").open()]
        for half in ("train", "test")
    }
    training = here.file(given["train"])
    rationales = {**body.get("rationales", {}), "import": training}
    job = here.run(
        here.job(training, here.file(given["test"]), **{**body, "rationales": rationales})
    )
    counts = here.manifest(job).counts
    assert counts.questions == len(given["train"])
    assert counts.parsed + counts.unparseable == counts.outputs
    assert right[0] <= counts.majority_right / counts.questions <= right[1]
    assert len(here.test_items(job)) == len(given["test"])
    first = given["train"][0]["question"]
    assert here.items(job)[0].question.id == question_id(first)


def test_the_set_has_its_index_and_says_who_assembled_it(bench: MakeBench) -> None:
    """The index that is written is the one that would be made of the shards."""
    here = bench()
    job = here.run(here.job(here.file(sums(7))))
    manifest = here.manifest(job)
    assert (manifest.job_id, manifest.teacher) == (job.id, "default")
    written = index.load_index(here.store, manifest)
    made = index.build_index([here.items(job)])
    assert len(written) == manifest.counts.positives + manifest.counts.negatives > 0
    assert written.questions.tolist() == made.questions.tolist()
    assert written.rationales.tolist() == made.rationales.tolist()
    assert keys.rationale_index_key(manifest.id) in here.store.list("")


@pytest.mark.parametrize("mood", ["busy", "engine", "ok"])
def test_a_machine_without_a_way_to_the_hub_still_reaches_its_teacher(
    bench: MakeBench, monkeypatch: pytest.MonkeyPatch, mood: Mood
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    before = "huggingface_hub.utils._http._GLOBAL_ASYNC_CLIENT_FACTORY"
    monkeypatch.setattr(before, None)  # put back after the test
    install_http_client_factory()
    here = bench(mood=lambda number: mood if number == 0 else "ok")
    assert here.run(here.job(here.file(sums(2)))).stage is Stage.TRAINING


def test_a_label_that_training_never_shows_is_told_before_anything_is_paid(
    bench: MakeBench,
) -> None:
    here = bench()
    rows = [{"question": f"What is animal {i}?", "label": "animal"} for i in range(4)]
    task = {"answer": "label", "labels": ["animal", "fruit", "tool"]}
    job = here.job(here.file(rows), task=task, kind="finetune")
    here.run(job)
    first = here.events.read(job.id)[0]
    assert first.level == "warn"
    assert first.data["unseen_labels"] == ["fruit", "tool"]
    assert "'fruit', 'tool'" in first.message


@pytest.mark.parametrize("space", ["  ", "\u200b ", "\u00ad "])
def test_a_question_in_another_dress_with_another_label_is_named(
    bench: MakeBench, space: str
) -> None:
    here = bench()
    training = [{"question": f"What is {i} plus 1?", "label": "1"} for i in range(2)]
    twin = {"question": f"What{space}is 0 plus 1?", "label": "2"}
    same = {"question": "WHAT IS 1 PLUS 1?", "label": "1"}
    job = here.run(here.job(here.file([*training, twin, same]), kind="finetune"))
    (said,) = [each for each in here.said(job) if "another label" in each]
    assert "1 training questions differ" in said
    assert "lines 1 and 3" in said


def test_questions_in_another_dress_are_shared_questions(bench: MakeBench) -> None:
    here = bench()
    training = here.file([{"question": f"What is {i} plus 1?", "label": "1"} for i in range(3)])
    test = here.file([{"question": "WHAT  IS 2 PLUS 1?", "label": "1"}])
    job = here.job(training, test, kind="finetune")
    here.run(job)
    events = here.events.read(job.id)
    assert [event.data["shared"] for event in events if "shared" in event.data] == [1]


def test_a_teacher_with_grammars_is_held_to_the_form_of_the_answer(bench: MakeBench) -> None:
    here = bench(limits={"grammar": True})
    here.run(here.job(here.file(sums(3)), rationales={"n": 2, "max_new_tokens": 40}))
    grammars = {request["parameters"]["grammar"]["value"] for request in here.teacher.requests}
    assert len(grammars) == 1
    assert re.fullmatch(grammars.pop(), " One more than 0.\n<Answer>: 1")


def test_the_set_tells_how_long_its_rationales_are(bench: MakeBench) -> None:
    here = bench(lambda prompt, seed: f" {'so ' * (seed % 4)}it is.\n<Answer>: 1")
    job = here.run(here.job(here.file([{"question": "What is 0 + 1?", "label": "1"}])))
    words = here.manifest(job).words
    texts = [positive.text for item in here.items(job) for positive in item.positives]
    assert words is not None
    assert words.longest == max(len(text.split()) for text in texts)
    assert 2 <= words.median <= words.p90 <= words.longest <= 5


@pytest.mark.parametrize("name", ["svamp_gpt35", "last_letter", "tracking"])
def test_published_rationales_import_whole_by_the_job_that_init_writes(
    bench: MakeBench, tmp_path: Path, name: str
) -> None:
    output = tmp_path / "job.yaml"
    arguments = ["init", str(data_folder(name)), "--yes", "--output", str(output)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    body = yaml.safe_load(output.read_text())
    lines = Path(body["training_file"]).read_text().split("\n")
    rows = [json.loads(line) for line in lines if line]
    here = bench()
    file = here.file(rows)
    settings = body["method"]["qcrd"]
    rationales = {**settings["rationales"], "import": file}
    counts = here.manifest(
        here.run(here.job(file, task=settings["task"], rationales=rationales))
    ).counts
    assert counts.outputs == sum(len(row["rationales"]) for row in rows)
    assert counts.positives >= 0.99 * counts.outputs
