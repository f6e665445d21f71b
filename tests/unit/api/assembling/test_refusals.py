"""Questions that a teacher refuses, and tokens that it does not count."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from qcrd.errors import TooManyRefused
from qcrd.records.job import JobStatus, Stage
from qcrd.records.teachers.prompt import TeacherPrompt
from services.api.assembling.refusals import AskedQuestion, RefusalLog, RowLocation
from services.api.assembling.sampling_plan import PromptRequest, SampleRequest
from services.api.assembling.teacher.prompt_refused import PromptRefused, make_refusal
from tests.fakes.scripted_teacher import Mood
from tests.unit.api.assembling.assembling_bench import Bench, MakeBench


def sums(count: int, start: int = 0) -> list[dict[str, Any]]:
    numbers = range(start, start + count)
    return [{"question": f"What is {i} + 1?", "label": str(i + 1)} for i in numbers]


def refusing(bench: MakeBench, moods: dict[int, Mood], **script: Any) -> Bench:
    """`moods`: by the number in the question."""

    def mood(number: int) -> Mood:
        prompt: str = here.teacher.requests[number]["inputs"]
        return moods.get(int(prompt.rsplit("What is ", 1)[1].split(" ")[0]), "ok")

    here = bench(mood=mood, **script)
    return here


def refused_rows(here: Bench, job_id: str) -> list[dict[str, Any]]:
    events = here.events.read(job_id, None, 1000)
    return [row for event in events for row in event.data.get("rows", ())]


def test_refused_rows_are_counted_by_reason_and_line_and_the_rest_goes_on(
    bench: MakeBench,
) -> None:
    here = refusing(bench, {2: "too_long", 51: "filtered"})
    job = here.run(here.job(here.file(sums(5)), here.file(sums(3, start=50))))
    assert (job.status, job.stage) == (JobStatus.RUNNING, Stage.TRAINING)
    counts = here.manifest(job).counts
    assert (counts.outputs, counts.refused) == (4 * 5, 2)
    rows = [(row["file"], row["line"], row["reason"]) for row in refused_rows(here, job.id)]
    assert rows == [("training_file", 3, "too_long"), ("test_file", 2, "filtered")]
    (said,) = (message for message in here.said(job) if "refuses 2 of 8 questions" in message)
    assert "too_long 1 (training_file line 3; first: teacher default refuses a prompt" in said
    assert "must have less than 8 tokens" in said
    # Label and line stay: a student can learn the label.
    assert [item.label for item in here.items(job)] == ["1", "2", "3", "4", "5"]
    assert here.items(job)[2].positives == ()


def test_what_is_refused_for_good_is_not_asked_again(bench: MakeBench) -> None:
    """One sample of five, as one request is in flight at a time."""
    here = refusing(bench, {0: "refused"}, concurrency=1)
    here.run(here.job(here.file(sums(3)), rationales={"n": 5}))
    asked = [request["inputs"] for request in here.teacher.requests]
    assert len(asked) == 1 + 2 * 5


def test_above_the_share_the_job_pauses_with_its_table_and_keeps_what_it_has(
    bench: MakeBench,
) -> None:
    here = refusing(bench, {1: "too_long", 3: "filtered", 5: "too_long"})
    training = here.file(sums(20))
    job = here.run(here.job(training))
    assert (job.status, job.failure) == (JobStatus.PAUSED, None)
    assert job.paused_because is not None
    assert "refuses 3 of 20 questions" in job.paused_because
    assert "training_file lines 2, 6" in job.paused_because
    assert "filtered 1 (training_file line 4" in job.paused_because
    assert "rationales.max_failed_share" in job.paused_because
    assert len(refused_rows(here, job.id)) == 3
    answered = here.teacher.answered
    again = here.run(here.job(training, rationales={"max_failed_share": 0.2}))
    assert again.stage is Stage.TRAINING
    assert here.teacher.answered == 17 * 5
    assert answered == 17 * 5 or again.usage.teacher_tokens > 0


def test_a_job_whose_every_question_is_refused_pauses(bench: MakeBench) -> None:
    here = refusing(bench, {0: "too_long", 1: "too_long"})
    job = here.run(here.job(here.file(sums(2))))
    assert job.status is JobStatus.PAUSED
    assert "must have less than 8 tokens" in (job.paused_because or "")


def test_a_filter_that_lets_some_answers_through_refuses_no_question(bench: MakeBench) -> None:
    here = bench(mood=lambda number: "filtered" if number == 0 else "ok")
    job = here.run(here.job(here.file(sums(3))))
    assert (here.manifest(job).counts.outputs, here.manifest(job).counts.refused) == (14, 0)


def test_asking_ends_once_too_many_are_refused(bench: MakeBench) -> None:
    """Three of a hundred questions, one sample each, one request at a time."""
    here = bench(mood=lambda number: "refused", concurrency=1)
    job = here.run(here.job(here.file(sums(100)), rationales={"n": 1, "max_failed_share": 0.0}))
    assert job.status is JobStatus.PAUSED
    assert len(here.teacher.requests) == 3


def _ask(number: int) -> PromptRequest:
    return PromptRequest((SampleRequest(TeacherPrompt(str(number)), 0),))


@pytest.mark.parametrize(("questions", "allowed"), [(3, 2), (40, 2), (60, 3), (1000, 50)])
def test_a_twentieth_may_be_refused_and_never_fewer_than_two(questions: int, allowed: int) -> None:
    asked = {
        _ask(number).prompt: AskedQuestion(RowLocation("training_file", number), 1)
        for number in range(questions)
    }
    log = RefusalLog(asked, 0.05)
    for number in range(allowed):
        log.add(_ask(number), PromptRefused("no", "refused"))
    assert not log.is_too_many
    log.add(_ask(allowed), PromptRefused("no", "refused"))
    assert log.is_too_many
    assert isinstance(log.make_error("p"), TooManyRefused)


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("Input validation error: `inputs` must have less than 8 tokens. Given: 9", "too_long"),
        ("Input validation error: `inputs` tokens + `max_new_tokens` must be <= 64.", "too_long"),
        ("Input validation error: the prompt is too long: maximum context length", "too_long"),
        ("Input validation error: upstream answered 400: exceeds the context size", "too_long"),
        ("Content filtered: no", "filtered"),
        ("Input validation error: no", "refused"),
    ],
)
def test_why_a_prompt_is_refused(told: str, reason: str) -> None:
    assert make_refusal("teacher", told).reason == reason


# --- tokens ------------------------------------------------------------------------------------


def test_tokens_that_a_teacher_does_not_count_are_asked_of_its_tokenizer(bench: MakeBench) -> None:
    """TGI before 3.0 tells no `input_length` in a stream."""
    here = bench(counts={"generated_tokens": 7}, tokenize=lambda text: 13)
    job = here.run(here.job(here.file(sums(3))))
    assert job.stage is Stage.TRAINING
    assert job.usage.teacher_prompt_tokens == 15 * 13
    assert job.usage.estimated


def test_without_a_tokenizer_tokens_are_estimated_by_bytes(bench: MakeBench) -> None:
    here = bench(lambda prompt, seed: "123456789 ", counts={})
    job = here.run(here.job(here.file(sums(2)), rationales={"n": 1}))
    prompts = [request["inputs"] for request in here.teacher.requests]
    assert job.usage.teacher_prompt_tokens == sum(-(-len(p.encode()) // 3) for p in prompts)
    assert job.usage.teacher_completion_tokens == 2 * 4
    assert job.usage.estimated


def test_what_the_teacher_marks_as_estimated_is_so_in_the_jobs_usage(bench: MakeBench) -> None:
    told = {"generated_tokens": 7, "input_length": 11, "estimated": True}
    here = bench(counts=told)
    assert here.run(here.job(here.file(sums(1)))).usage.estimated
    plain = bench()
    assert not plain.run(plain.job(plain.file(sums(1)))).usage.estimated


# --- an upstream that is away ------------------------------------------------------------------


def test_an_upstream_that_is_away_is_waited_for_like_a_teacher(bench: MakeBench) -> None:
    """The teacher itself is there, and its health says when to ask again."""
    here = bench(mood=lambda number: "ok" if here.teacher.healthy else "away", concurrency=2)
    here.teacher.healthy = False
    job = here.job(here.file(sums(3)))
    seen: list[str] = []

    def come_back() -> None:
        while here.teacher.health_checks < 3 or not (waiting := here.jobs.get(job.id).waiting):
            time.sleep(0.01)
        seen.append(waiting)
        here.teacher.healthy = True

    other = threading.Thread(target=come_back)
    other.start()
    after = here.run(job)
    other.join()
    assert after.stage is Stage.TRAINING
    assert (after.waiting, after.waiting_since) == (None, None)
    assert "its upstream does not answer" in seen[0]
    assert seen[0].endswith(" UTC")
    assert len(here.teacher.requests) <= 15 + 2
    assert any(" UTC; waiting for it" in said for said in here.said(job))


def test_waiting_tells_since_when_over_all_attempts(bench: MakeBench) -> None:
    here = bench()
    here.teacher.kill()
    first = here.run(here.job(here.file(sums(2))))
    assert first.waiting_since is not None
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(first.waiting_since))
    assert (first.waiting or "").endswith(f", since {began} UTC")
    second = here.run(first)
    assert (second.waiting_since, second.backoffs) == (first.waiting_since, 2)
    assert (second.waiting or "").endswith(f", since {began} UTC")
    here.teacher.start()
    after = here.run(second)
    assert (after.stage, after.waiting, after.waiting_since) == (Stage.TRAINING, None, None)
