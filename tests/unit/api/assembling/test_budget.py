"""A job's budget holds whatever the teacher does, and what was paid is kept."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict

import pytest

from qcrd.records.job import Job, JobStatus, Stage, Usage
from qcrd.records.specs.spec import Budget
from qcrd.runtime.jobs.state_machine import release_lease, transition, with_changes
from qcrd.runtime.redis.generation_buffer import AccountUpdate, MemoryGenerationBuffer
from services.api.assembling.backoff_policy import BackoffPolicy
from services.api.assembling.teacher.prompt_tokens import estimate_prompt_tokens
from services.api.assembling.tokens.token_account import TokenAccount
from services.api.assembling.tokens.token_budget import TokenBudget
from services.api.assembling.tokens.token_sums import Tokens
from services.api.settings import TeacherConfig
from tests.fakes.scripted_teacher import PROMPT_TOKENS, Mood
from tests.unit.api.assembling.assembling_bench import QUICK, Bench, MakeBench, a_job
from tests.unit.api.assembling.test_stage import sums

PRICED = TeacherConfig(url="http://t", prompt_price=1.0, completion_price=2.0)
REQUEST = Tokens(prompt=9, completion=10)


def budget_of(
    budget: Budget, spent: Usage | None = None, teacher: TeacherConfig = PRICED
) -> TokenBudget:
    told = spent or Usage()
    account = TokenAccount.open(MemoryGenerationBuffer(), a_job(lease=1), told, teacher)
    return TokenBudget(budget, teacher, account)


def test_a_request_is_covered_by_the_most_that_it_can_cost() -> None:
    """9 prompt tokens and at most 10 new ones: 19 each, two in 40."""
    purse = budget_of(Budget(teacher_tokens=40))
    first, second = purse.reserve(REQUEST), purse.reserve(REQUEST)
    assert first is not None
    assert second is not None
    assert purse.reserve(REQUEST) is None
    purse.account.settle(first, spent=Tokens(2, 3))
    # 5 spent and 19 reserved leave 16.
    assert purse.reserve(Tokens(7, 10)) is None
    third = purse.reserve(Tokens(6, 10))
    assert third is not None
    purse.account.settle(second)
    purse.account.settle(third, spent=Tokens(2, 10))
    assert purse.in_flight == 0
    said = str(purse.make_over_budget_error(REQUEST))
    assert "17 teacher tokens are spent" in said
    assert "9 prompt tokens + 1 × 10 new tokens = 19 tokens" in said


def test_money_is_a_limit_too_and_earlier_attempts_count() -> None:
    """1 per million prompt and 2 per million completion tokens: (9 + 2 · 10) / 10^6 = 0.000029."""
    assert budget_of(Budget(cost=0.000029)).reserve(REQUEST)
    assert not budget_of(Budget(cost=0.000028)).reserve(REQUEST)
    assert not budget_of(Budget(cost=0.000029), Usage(teacher_prompt_tokens=1)).reserve(REQUEST)
    assert not budget_of(Budget(cost=0.000029), Usage(uncertain=1)).reserve(REQUEST)


def test_what_may_be_spent_is_not_reserved_again() -> None:
    purse = budget_of(Budget(teacher_tokens=40))
    for streamed in (3, 0):
        reservation = purse.reserve(REQUEST)
        assert reservation is not None
        spent, rest = Tokens(9, streamed), Tokens(0, 10 - streamed)
        purse.account.settle(reservation, spent=spent, uncertain=rest)
    assert (purse.account.spent.total, purse.account.uncertain.total) == (21, 17)
    assert purse.reserve(REQUEST) is None
    said = str(purse.make_over_budget_error(REQUEST))
    assert "17 teacher tokens more may be" in said
    assert "release_uncertain" in said


def test_costs_without_prices_are_no_budget() -> None:
    free = TeacherConfig(url="http://t")
    assert not budget_of(Budget(cost=1e9), teacher=free).reserve(REQUEST)


def test_a_prompt_without_a_tokenizer_has_a_third_of_its_bytes() -> None:
    """7 bytes: 7 / 3 rounded up is 3; 'ü' has two bytes."""
    assert estimate_prompt_tokens("abcdefg") == Tokens(prompt=3, estimated=True)
    assert estimate_prompt_tokens("üüü") == Tokens(prompt=2, estimated=True)


def test_a_teacher_needs_both_prices_or_none() -> None:
    with pytest.raises(ValueError, match="prompt_price and completion_price"):
        TeacherConfig(url="http://t", prompt_price=1.0)
    assert TeacherConfig(url="http://t").compute_cost(5, 5) is None


def budgeted(here: Bench, tokens: int, questions: int, **rationales: int) -> Job:
    made = here.job(here.file(sums(questions)), rationales={"max_new_tokens": 8, **rationales})
    limit = Budget(teacher_tokens=tokens)
    return here.jobs.update(made.id, lambda job: with_changes(job, budget=limit))


def resumed(here: Bench, job: Job, **changes: object) -> Job:
    """Runs it again, paused or not, as the gateway's resume and the queue would."""
    if here.jobs.get(job.id).status is JobStatus.PAUSED:
        here.jobs.update(
            job.id, lambda paused: transition(paused, JobStatus.QUEUED, 0.0, dict(changes))
        )
    return here.run(job)


def test_a_job_pauses_within_its_budget_and_goes_on_with_a_larger_one(bench: MakeBench) -> None:
    """An answer costs 11 + 7 tokens here, and is covered with 8 at most; 30 answers are wanted."""
    here = bench()
    job = budgeted(here, 300, questions=6)
    paused = here.run(job)
    assert paused.status is JobStatus.PAUSED
    assert paused.paused_because is not None
    assert "budget of 300 tokens" in paused.paused_because
    assert 0 < paused.usage.teacher_tokens <= 300
    assert paused.usage.teacher_tokens == here.teacher.answered * 18
    assert here.queue.drain() == []
    assert here.said(job) == [f"paused: {paused.paused_because}"]

    done = resumed(here, job, budget=Budget(teacher_tokens=600))
    assert done.stage is Stage.TRAINING
    assert here.teacher.answered == 30
    assert done.usage.teacher_tokens == 30 * 18
    assert done.usage.uncertain == 0


def test_prompts_are_counted_by_the_teacher_s_tokenizer(bench: MakeBench) -> None:
    """11 + 8 tokens fit twice into 38 and not three times, whatever the prompts' bytes say."""
    here = bench(tokenize=lambda text: PROMPT_TOKENS, delay=0.2)
    job = here.run(budgeted(here, 38, questions=6))
    assert job.status is JobStatus.PAUSED
    assert here.teacher.most_flying == 2
    assert here.teacher.generated == job.usage.teacher_tokens == 2 * 18
    assert "11 prompt tokens + 1 × 8 new tokens = 19 tokens" in str(job.paused_because)
    assert not job.usage.estimated


@pytest.mark.parametrize("begun", [1, 8])
def test_a_teacher_that_breaks_off_spends_no_budget_twice(bench: MakeBench, begun: int) -> None:
    """Every answer breaks off after `begun` tokens, over attempts, pauses and resumes."""
    here = bench(mood=lambda number: "cut", begun=begun)
    job = budgeted(here, 4000, questions=40)
    for _ in range(5):
        after = resumed(here, job)
        usage = after.usage
        assert usage.teacher_tokens + usage.uncertain <= 4000
        assert here.teacher.generated <= usage.teacher_tokens + usage.uncertain
        assert 0 < usage.teacher_completion_tokens <= len(here.teacher.requests) * begun
    assert here.teacher.generated > 1000


def test_a_paused_job_has_told_what_broke_off(bench: MakeBench) -> None:
    here = bench(mood=lambda number: "cut", begun=3, tokenize=lambda text: PROMPT_TOKENS)
    job = budgeted(here, 60, questions=6)
    while (after := here.run(job)).status is not JobStatus.PAUSED:
        pass
    # 11 + 8 three times; of each 11 + 3 are spent and 5 uncertain.
    assert (after.usage.teacher_tokens, after.usage.uncertain) == (42, 15)
    assert "15 teacher tokens more may be" in str(after.paused_because)
    again = resumed(here, job)
    assert again.status is JobStatus.PAUSED
    assert len(here.teacher.requests) == 3


def test_released_tokens_are_free_again(bench: MakeBench) -> None:
    broken = True
    here = bench(
        mood=lambda number: "cut" if broken else "ok", begun=3, tokenize=lambda text: PROMPT_TOKENS
    )
    job = budgeted(here, 60, questions=6)
    while (after := here.run(job)).status is not JobStatus.PAUSED:
        pass
    broken = False
    released = resumed(here, job, uncertain_released=after.lease.token)
    # 42 spent leave 18: too few for another 19, which the pause tells.
    assert (released.usage.teacher_tokens, released.usage.uncertain) == (42, 0)
    assert released.status is JobStatus.PAUSED
    more = resumed(here, job, budget=Budget(teacher_tokens=61))
    assert (more.usage.teacher_tokens, more.usage.uncertain) == (60, 0)


def test_a_pause_leaves_what_was_in_flight_uncertain(bench: MakeBench) -> None:
    here = bench(begun=3, delay=60.0, tokenize=lambda text: PROMPT_TOKENS, concurrency=2)
    job = budgeted(here, 100, questions=6)

    def pause_when_asked(number: int) -> None:
        here.jobs.update(job.id, lambda one: transition(one, JobStatus.PAUSED, time.time(), {}))

    here.teacher.mood = lambda number: (pause_when_asked(number) if number == 1 else None) or "ok"
    paused = here.run(job)
    assert paused.status is JobStatus.PAUSED
    assert paused.usage.teacher_tokens + paused.usage.uncertain == 2 * 19
    assert paused.usage.teacher_tokens in (0, 14, 28)


@pytest.mark.parametrize(
    ("mood", "spent", "uncertain"),
    [("engine", 0, 4 * 19), ("too_long", 0, 0), ("cut", 4 * 12, 4 * 7)],
)
def test_only_a_refusal_is_free(bench: MakeBench, mood: Mood, spent: int, uncertain: int) -> None:
    """Four tries are made of 11 + 8 tokens. An engine that fails says nothing of what it had
    generated; of an answer that is cut one token came: 4 · 12 are spent and 4 · 7 may be."""
    here = bench(mood=lambda number: mood, tokenize=lambda text: PROMPT_TOKENS, concurrency=1)
    usage = here.run(budgeted(here, 1000, questions=2)).usage
    assert (usage.teacher_tokens, usage.uncertain) == (spent, uncertain)


def test_an_answer_that_was_told_is_kept_when_its_connection_breaks(bench: MakeBench) -> None:
    here = bench(mood=lambda number: "cut_after")
    job = here.run(budgeted(here, 10_000, questions=2))
    assert job.stage is Stage.TRAINING
    assert (job.usage.teacher_tokens, job.usage.uncertain) == (10 * 18, 0)
    assert len(here.teacher.requests) == 10


def test_an_estimate_that_was_too_low_is_not_made_again(bench: MakeBench) -> None:
    """The teacher says 11 tokens where a tokenizer of its own had counted 5: from then on 6 more
    are reserved, so that only the first request can take more than was set aside."""
    here = bench(tokenize=lambda text: 5, concurrency=1)
    job = here.run(budgeted(here, 5 * 18 + 18, questions=8, n=1))
    assert job.status is JobStatus.PAUSED
    assert job.usage.teacher_tokens == 5 * 18
    assert "11 prompt tokens" in str(job.paused_because)


class Killed(BaseException):
    """The process is gone: nothing after this is done by it."""


class Mortal(MemoryGenerationBuffer):
    """What is left after a kill -9 at the `lives`-th write from now."""

    lives = 10**9

    def update_account(self, update: AccountUpdate) -> None:
        self.live()
        super().update_account(update)

    def add(
        self, set_key: str, payloads: Mapping[str, str], account: AccountUpdate | None = None
    ) -> None:
        self.live()
        super().add(set_key, payloads, account)

    def live(self) -> None:
        self.lives -= 1
        if self.lives < 0:
            raise Killed


def test_what_a_killed_worker_had_in_flight_is_uncertain(bench: MakeBench) -> None:
    """Two requests are reserved in one write, the second after the account's opening; the answer
    that comes first is the third, and the worker does not live to write it."""
    here = bench(tokenize=lambda text: PROMPT_TOKENS, concurrency=2)
    here.ledger = buffer = Mortal()
    buffer.lives = 2
    job = budgeted(here, 57, questions=6)
    with pytest.raises(Killed):
        here.run(job)
    assert here.teacher.answered >= 1
    assert here.jobs.get(job.id).usage.uncertain == 0
    here.jobs.update(job.id, lambda held: release_lease(held, time.time()))
    buffer.lives = 10**9
    after = here.run(job)
    # 38 of the dead worker may be spent; one more request of at most 19 fits, and takes 18.
    assert (after.usage.teacher_tokens, after.usage.uncertain) == (18, 38)
    assert after.status is JobStatus.PAUSED
    assert here.teacher.generated <= 57
    assert any("38 teacher tokens may have been spent" in said for said in here.said(job))


def test_what_tokens_cost_is_in_the_usage(bench: MakeBench) -> None:
    here = bench()
    priced = {"prompt_price": 1.0, "completion_price": 2.0, "currency": "EUR"}
    here.teachers["default"] = here.teachers["default"].model_copy(update=priced)
    job = here.run(here.job(here.file(sums(2))))
    assert job.usage.cost == pytest.approx(10 * (11 * 1.0 + 7 * 2.0) / 1e6)
    assert job.usage.currency == "EUR"
    assert job.usage.uncertain_cost == 0.0


def test_a_teacher_that_says_when_to_come_back_is_left_alone_until_then(bench: MakeBench) -> None:
    waits: list[float] = []

    class Noted(BackoffPolicy):
        def get_overload_delay(self, attempts: int, retry_after: float | None) -> float:
            waits.append(super().get_overload_delay(attempts, retry_after))
            return 0.0

    here = bench(mood=lambda number: "busy" if number == 0 else "ok", retry_after=7)
    pace = Noted(**asdict(QUICK))
    job = here.run(here.job(here.file(sums(2)), rationales={"n": 1}), pace)
    assert job.stage is Stage.TRAINING
    assert waits == [7.0]
    assert job.usage.uncertain == 0
