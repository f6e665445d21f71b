"""A job's budget holds whatever the teacher answers, and what was paid is kept."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcrd.records.job import JobStatus, Stage, Usage
from qcrd.records.spec import Budget
from qcrd.runtime.jobs.state_machine import transition, with_changes
from services.api.assembling.budget import TokenBudget
from services.api.assembling.sampling_plan import SampleRequest
from services.api.assembling.teacher_client import Completion
from services.api.settings import TeacherConfig
from tests.unit.api.assembling.assembling_bench import QUICK, MakeBench
from tests.unit.api.assembling.test_stage import sums

PRICED = TeacherConfig(url="http://t", prompt_price=1.0, completion_price=2.0)


def answered(prompt: int, completion: int) -> Completion:
    return Completion("x", "eos_token", prompt, completion)


def test_a_request_is_covered_by_the_most_that_it_can_cost() -> None:
    """Prompt of 5 bytes: at most 5 + 4 tokens; answer: at most 10. So 19 each, two in 40."""
    purse = TokenBudget(Budget(teacher_tokens=40), PRICED, 10, Usage())
    first, second, third = (SampleRequest("abcde", index) for index in range(3))
    assert purse.reserve(first)
    assert purse.reserve(second)
    assert not purse.reserve(third)
    purse.settle(first, answered(2, 3))
    # 5 spent, 19 reserved, and the prompt is known to be 2 tokens: 5 + 19 + 12 = 36.
    assert purse.reserve(third)
    purse.settle(second, None)
    purse.settle(third, answered(2, 10))
    assert purse.in_flight == 0
    assert "17 teacher tokens" in str(purse.make_over_budget_error())


def test_money_is_a_limit_too_and_earlier_attempts_count() -> None:
    """1 per million prompt and 2 per million completion tokens: (9 + 2 · 10) / 10^6 = 0.000029."""
    asked = SampleRequest("abcde", 0)
    assert TokenBudget(Budget(cost=0.000029), PRICED, 10, Usage()).reserve(asked)
    assert not TokenBudget(Budget(cost=0.000028), PRICED, 10, Usage()).reserve(asked)
    spent = Usage(teacher_prompt_tokens=1)
    assert not TokenBudget(Budget(cost=0.000029), PRICED, 10, spent).reserve(asked)


@given(
    limit=st.integers(1, 400),
    answers=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 10)), max_size=40),
    at_once=st.integers(1, 6),
)
def test_no_order_of_answers_exceeds_the_budget(
    limit: int, answers: list[tuple[int, int]], at_once: int
) -> None:
    purse = TokenBudget(Budget(teacher_tokens=limit), PRICED, 10, Usage())
    spent, flying = 0, []
    for index, (prompt, completion) in enumerate(answers):
        # Prompts of their own, each within its bytes plus the margin.
        wanted = SampleRequest(f"{index:05d}", index)
        if len(flying) >= at_once or not purse.reserve(wanted):
            for held, tokens in flying:
                purse.settle(held, answered(*tokens))
                spent += sum(tokens)
            flying = []
            if not purse.reserve(wanted):
                break
        flying.append((wanted, (prompt, completion)))
    for held, tokens in flying:
        purse.settle(held, answered(*tokens))
        spent += sum(tokens)
    assert spent <= limit


def test_what_broke_off_counts_as_the_most_that_it_can_have_cost() -> None:
    purse = TokenBudget(Budget(teacher_tokens=40), PRICED, 10, Usage())
    asked = SampleRequest("abcde", 0)
    assert purse.reserve(asked)
    purse.settle(asked, None, partial=True)
    assert purse.reserve(asked)
    purse.settle(asked, None, partial=True)
    assert not purse.reserve(asked)


def test_costs_without_prices_are_no_budget() -> None:
    free = TeacherConfig(url="http://t")
    assert not TokenBudget(Budget(cost=1e9), free, 10, Usage()).reserve(SampleRequest("abcde", 0))


def test_a_teacher_needs_both_prices_or_none() -> None:
    with pytest.raises(ValueError, match="prompt_price and completion_price"):
        TeacherConfig(url="http://t", prompt_price=1.0)
    assert TeacherConfig(url="http://t").compute_cost(5, 5) is None


def test_a_job_pauses_within_its_budget_and_goes_on_with_a_larger_one(bench: MakeBench) -> None:
    """An answer costs 11 + 7 tokens here, and is covered with 8 at most; 30 answers are wanted."""
    here = bench()
    made = here.job(here.file(sums(6)), rationales={"max_new_tokens": 8})
    job = here.jobs.update(
        made.id, lambda job: with_changes(job, budget=Budget(teacher_tokens=300))
    )
    paused = here.run(job)
    assert paused.status is JobStatus.PAUSED
    assert paused.paused_because is not None
    assert "budget of 300 tokens" in paused.paused_because
    assert 0 < paused.usage.teacher_tokens <= 300
    assert paused.usage.teacher_tokens == here.teacher.answered * 18
    assert here.queue.drain() == []
    assert here.said(job) == [f"paused: {paused.paused_because}"]

    more = {"budget": Budget(teacher_tokens=600)}
    here.jobs.update(job.id, lambda job: transition(job, JobStatus.QUEUED, 0.0, more))
    done = here.run(job)
    assert done.stage is Stage.TRAINING
    assert here.teacher.answered == 30
    assert done.usage.teacher_tokens == 30 * 18


def test_broken_answers_do_not_lead_beyond_the_budget(bench: MakeBench) -> None:
    """Each of them may have been paid for: 11 + 8 tokens at most, counted as 8 + the prompt."""
    here = bench(mood=lambda number: "cut")
    made = here.job(here.file(sums(2)), rationales={"n": 1, "max_new_tokens": 8})
    limit = Budget(teacher_tokens=400)
    job = here.jobs.update(made.id, lambda job: with_changes(job, budget=limit))
    after = here.run(job)
    assert after.status is JobStatus.PAUSED or after.waiting
    begun = len(here.teacher.requests)
    assert 0 < begun * (11 + 8) <= 400


def test_what_tokens_cost_is_in_the_usage(bench: MakeBench) -> None:
    here = bench()
    priced = {"prompt_price": 1.0, "completion_price": 2.0, "currency": "EUR"}
    here.teachers["default"] = here.teachers["default"].model_copy(update=priced)
    job = here.run(here.job(here.file(sums(2))))
    assert job.usage.cost == pytest.approx(10 * (11 * 1.0 + 7 * 2.0) / 1e6)
    assert job.usage.currency == "EUR"


def test_a_teacher_that_says_when_to_come_back_is_left_alone_until_then(bench: MakeBench) -> None:
    here = bench(mood=lambda number: "busy" if number == 0 else "ok", retry_after=1)
    began = time.monotonic()
    job = here.run(here.job(here.file(sums(2)), rationales={"n": 1}), QUICK)
    assert job.stage is Stage.TRAINING
    assert time.monotonic() - began >= 1.0
