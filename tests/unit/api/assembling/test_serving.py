"""What the rationale set keeps of how a teacher answered."""

from __future__ import annotations

from services.api.assembling.serving import AnswerTimer
from services.api.settings import TeacherConfig
from tests.unit.api.assembling.assembling_bench import Bench, MakeBench
from tests.unit.api.assembling.test_stage import sums


def priced(here: Bench) -> None:
    here.teachers["default"] = TeacherConfig(
        url=here.teacher.url, prompt_price=1.0, completion_price=2.0, currency="EUR"
    )


def test_the_test_questions_tokens_and_price_are_kept(bench: MakeBench) -> None:
    """Eleven tokens asked and seven answered for each of three questions."""
    here = bench()
    priced(here)
    job = here.run(here.job(here.file(sums(4)), here.file(sums(3, start=50))))
    serving = here.manifest(job).serving
    assert serving is not None
    assert (serving.questions, serving.prompt_tokens, serving.completion_tokens) == (3, 33, 21)
    assert serving.cost is not None
    assert round(1e6 * serving.cost) == 33 + 2 * 21
    assert serving.currency == "EUR"
    assert serving.outputs_cost is not None
    assert round(1e6 * serving.outputs_cost) == 23 * (11 + 2 * 7)
    assert serving.times is not None
    assert serving.times.requests == here.teacher.answered == 4 * 5 + 3
    assert serving.timed == ()


def test_outputs_of_earlier_jobs_cost_the_same_and_have_no_times(bench: MakeBench) -> None:
    here = bench()
    priced(here)
    files = here.file(sums(4)), here.file(sums(3, start=50))
    first, second = (here.manifest(here.run(here.job(*files))).serving for _ in range(2))
    assert first is not None
    assert second is not None
    assert second.times is None
    assert (second.cost, second.outputs_cost) == (first.cost, first.outputs_cost)


def test_a_job_without_test_questions_or_prices_has_neither(bench: MakeBench) -> None:
    here = bench()
    serving = here.manifest(here.run(here.job(here.file(sums(4))))).serving
    assert serving is not None
    assert (serving.questions, serving.cost, serving.currency) == (0, None, None)
    imported = here.job(here.file(sums(4)), kind="finetune")
    assert here.manifest(here.run(imported)).serving is None


def test_a_teacher_is_timed_alone_and_beside_others_where_it_is_wanted(bench: MakeBench) -> None:
    here = bench()
    spec = {"evaluation": {"time_teacher": True}}
    job = here.run(here.job(here.file(sums(4)), here.file(sums(3, start=50)), **spec))
    serving = here.manifest(job).serving
    assert serving is not None
    assert [(each.concurrency, each.requests) for each in serving.timed] == [(1, 8), (8, 16)]
    assert here.teacher.answered == 4 * 5 + 3 + 24
    assert job.usage.teacher_completion_tokens == 7 * here.teacher.answered
    assert job.progress.percent <= 100
    told = [e.data for e in here.events.read(job.id, None, 1000) if e.type == "metrics"]
    assert all(data["done"] <= data["total"] == 23 for data in told)
    assert serving.completion_tokens == 21  # of the answers alone
    again = here.manifest(here.run(here.job(here.file(sums(4)), here.file(sums(3, start=50)))))
    assert again.counts.reused == 20


def test_a_budget_that_does_not_cover_the_timing_ends_it_and_not_the_job(bench: MakeBench) -> None:
    here = bench()
    training, test = here.file(sums(4)), here.file(sums(3, start=50))
    here.run(here.job(training, test))
    job = here.job(training, test, evaluation={"time_teacher": True})
    here.jobs.update(
        job.id,
        lambda one: one.model_copy(update={"budget": one.budget.model_copy(
            update={"teacher_tokens": 1})}),
    )  # fmt: skip
    done = here.run(job)
    assert done.rationale_set is not None
    serving = here.manifest(done).serving
    assert serving is not None
    assert serving.timed == ()
    assert [text for text in here.said(done, "info") if "not timed" in text]


def test_answers_a_second_are_of_all_requests_together() -> None:
    timer = AnswerTimer()
    assert timer.make_times(8) is None
    timer.add(10.0, 12.0, 5)
    timer.add(11.0, 14.0, 3)
    times = timer.make_times(8)
    assert times is not None
    assert (times.requests, times.p50, times.p95, times.per_second) == (2, 2.0, 3.0, 2.0)
