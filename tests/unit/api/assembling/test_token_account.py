"""A job's account over random histories of answers, breaks, kills, pauses and releases."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from qcrd.records.job import Usage
from qcrd.records.specs.spec import Budget
from qcrd.runtime.redis.generation_buffer import AccountUpdate, MemoryGenerationBuffer
from services.api.assembling.tokens.token_account import Reservation, TokenAccount, delete_account
from services.api.assembling.tokens.token_budget import TokenBudget
from services.api.assembling.tokens.token_sums import Tokens
from services.api.jobs.checks.budget_checks import release_uncertain_tokens
from services.api.settings import TeacherConfig
from tests.unit.api.assembling.assembling_bench import a_job

PRICED = TeacherConfig(url="http://t", prompt_price=1.0, completion_price=2.0)
LIMIT = Budget(teacher_tokens=200, cost=0.0003)
MAX_NEW_TOKENS = 10


class Histories(RuleBasedStateMachine):
    """`bills` is what the teacher can charge for the requests that left, as it alone knows; those
    that a user took for not spent are no longer counted."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = MemoryGenerationBuffer()
        self.job = a_job(lease=1)
        self.flying: dict[Reservation, int] = {}
        self.bills: dict[int, Tokens] = {}
        self.unknown: set[int] = set()
        self.shards: dict[str, int] = {}
        self.claim()

    def claim(self) -> None:
        """By another worker, as after a kill; what the last one had not written is lost."""
        account = TokenAccount.open(self.buffer, self.job, self.job.usage, PRICED)
        self.purse = TokenBudget(LIMIT, PRICED, account)

    @rule(prompt=st.integers(1, 9), leaves=st.booleans(), generated=st.integers(0, MAX_NEW_TOKENS))
    def ask(self, prompt: int, leaves: bool, generated: int) -> None:
        reservation = self.purse.reserve(Tokens(prompt, MAX_NEW_TOKENS))
        if reservation is None:
            return
        if not leaves:
            self.purse.account.settle(reservation)
            return
        self.purse.account.flush()
        number = len(self.bills)
        self.bills[number] = Tokens(prompt, generated)
        self.flying[reservation] = number

    def take(self, data: st.DataObject) -> tuple[Reservation, int]:
        reservation = data.draw(st.sampled_from(list(self.flying)))
        return reservation, self.flying.pop(reservation)

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), is_written=st.booleans())
    def answer(self, data: st.DataObject, is_written: bool) -> None:
        reservation, number = self.take(data)
        self.purse.account.settle(reservation, spent=self.bills[number])
        if is_written:
            self.purse.account.flush(lambda update: self.buffer.add("set", {"key": "x"}, update))
        else:
            self.unknown.add(number)

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def break_off(self, data: st.DataObject) -> None:
        reservation, number = self.take(data)
        streamed = data.draw(st.integers(0, self.bills[number].completion))
        rest = Tokens(completion=MAX_NEW_TOKENS - streamed)
        spent = Tokens(reservation.tokens.prompt, streamed)
        self.purse.account.settle(reservation, spent=spent, uncertain=rest)
        self.unknown.add(number)

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        reservation, number = self.take(data)
        self.bills[number] = Tokens()
        self.purse.account.settle(reservation)

    @rule(prompt=st.integers(1, 9), generated=st.integers(0, MAX_NEW_TOKENS))
    def send_batch(self, prompt: int, generated: int) -> None:
        most = Tokens(prompt, MAX_NEW_TOKENS).by_batch()
        if not self.purse.has_room(most):
            return
        number = len(self.bills)
        name = f"shard-{number:x}"
        self.purse.account.reserve_shard(name, most)
        self.purse.account.flush()
        self.bills[number] = Tokens(prompt, generated).by_batch()
        self.shards[name] = number

    @precondition(lambda self: self.purse.account.open_shards)
    @rule(data=st.data(), is_written=st.booleans())
    def take_batch(self, data: st.DataObject, is_written: bool) -> None:
        """One that is not written is there again after a kill."""
        name = data.draw(st.sampled_from(self.purse.account.open_shards))
        self.purse.account.settle_shard(name, spent=self.bills[self.shards[name]])
        if is_written:
            self.purse.account.flush(lambda update: self.buffer.add("set", {"key": "x"}, update))

    @rule(releases=st.booleans(), tells=st.booleans())
    def kill_or_pause(self, releases: bool, tells: bool) -> None:
        """The next attempt has the same budget."""
        if tells:
            self.purse.account.flush()
        self.unknown |= set(self.flying.values())
        self.flying.clear()
        self.end_attempt(releases)

    @rule(tells=st.booleans())
    def run_again(self, tells: bool) -> None:
        """The same attempt asks anew, as it does in the other style of prompts."""
        if tells:
            self.purse.account.flush()
        self.unknown |= set(self.flying.values())
        self.flying.clear()
        self.claim()

    def end_attempt(self, releases: bool) -> None:
        if releases:
            self.job = release_uncertain_tokens(self.job)
            self.bills |= dict.fromkeys(self.unknown, Tokens())
        lease = self.job.lease.model_copy(update={"token": self.job.lease.token + 1})
        self.job = self.job.model_copy(update={"lease": lease})
        self.claim()

    @invariant()
    def spent_and_uncertain_and_reserved_are_within_the_budget(self) -> None:
        account = self.purse.account
        check_within(account.spent + account.uncertain + account.reserved)

    @invariant()
    def so_are_they_for_who_comes_after_a_kill_now(self) -> None:
        lease = self.job.lease.model_copy(update={"token": self.job.lease.token + 1})
        after = TokenAccount(self.buffer, self.job.model_copy(update={"lease": lease}))
        most = after.spent + after.uncertain + after.reserved
        check_within(most)
        charged = sum((bill.total for bill in self.bills.values()), 0)
        assert charged <= most.total


def check_within(tokens: Tokens) -> None:
    assert tokens.total <= (LIMIT.teacher_tokens or 0)
    assert (tokens.compute_cost(PRICED) or 0.0) <= (LIMIT.cost or 0.0)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_write_of_a_worker_that_lost_the_job_changes_nothing_of_its_successor_s() -> None:
    buffer = MemoryGenerationBuffer()
    stale = TokenAccount.open(buffer, a_job(lease=1), Usage(), PRICED)
    left = stale.reserve(Tokens(5, 10))
    stale.flush()
    new = TokenAccount(buffer, a_job(lease=2))
    assert new.uncertain.total == 15
    mine = new.reserve(Tokens(5, 10))
    new.settle(mine, spent=Tokens(5, 6))
    new.flush()
    stale.settle(left, spent=Tokens(5, 2))
    stale.flush()
    after = TokenAccount(buffer, a_job(lease=3))
    assert (after.spent, after.uncertain.total) == (Tokens(10, 8), 0)


def test_a_batch_is_spent_once_whoever_takes_it() -> None:
    """A worker that lost the job while it took the results, and the one after it."""
    buffer = MemoryGenerationBuffer()
    most, cost = Tokens(5, 10).by_batch(), Tokens(5, 6, cached=2).by_batch()
    stale = TokenAccount.open(buffer, a_job(lease=1), Usage(), PRICED)
    stale.reserve_shard("shard-a", most)
    stale.flush()
    new = TokenAccount(buffer, a_job(lease=2))
    assert (new.reserved, new.uncertain.total, new.open_shards) == (most, 0, ["shard-a"])
    for account in (new, stale):
        account.settle_shard("shard-a", spent=cost)
        account.flush()
    after = TokenAccount(buffer, a_job(lease=3))
    assert (after.spent, after.uncertain.total, after.open_shards) == (cost, 0, [])
    assert after.shard_count == 1, "the next shard of the same samples has another name"


def test_tokens_by_batch_have_their_own_price() -> None:
    """(10 · 1 + 20 · 2) + half of (4 · 1 + 6 · 2) = 58 millionths."""
    tokens = Tokens(10, 20) + Tokens(4, 6).by_batch()
    assert tokens.compute_cost(PRICED) == pytest.approx(58 / 1e6)
    assert Tokens.parse(tokens.dump()) == tokens
    assert tokens.compute_cost(TeacherConfig(url="http://t")) is None


def test_what_earlier_releases_wrote_is_read() -> None:
    assert Tokens.parse("[1, 2, 0]") == Tokens(1, 2)
    assert Tokens.parse("[3, 2, 1, 2]") == Tokens(3, 2, estimated=True, cached=2)
    assert Tokens(3, 2, estimated=True, cached=2).dump() == "[3, 2, 1, 2]"


def test_what_a_later_release_wrote_or_is_damaged_stops_nobody() -> None:
    buffer, job = MemoryGenerationBuffer(), a_job(lease=2)
    fields = {"spent:1": "[3, 2, 0, 1, 0, 0, 0, 9]", "uncertain:1": "[1, 1, 0]"}
    others = {
        "schema_version": "1.1",
        "novel": "x",
        "spent:9": "{{",
        "spent:8": "[-1, 2, 0]",
        "spent:7": "[1.5, 2, 0]",
        "open:1:x": "[1, 2, 0]",
    }
    buffer.update_account(AccountUpdate(job.id, fields | others))
    account = TokenAccount(buffer, job)
    assert account.spent == Tokens(3, 2, cached=1)
    assert account.uncertain == Tokens(1, 1)
    account.settle(account.reserve(Tokens(1, 1)), spent=Tokens(1, 1))
    account.flush()
    assert others.items() <= buffer.read_account(job.id).items()


def test_an_attempt_that_runs_again_forgets_nothing_of_its_first_run() -> None:
    buffer, job = MemoryGenerationBuffer(), a_job(lease=3)
    first = TokenAccount.open(buffer, job, Usage(), PRICED)
    first.settle(first.reserve(Tokens(5, 10)), spent=Tokens(5, 6))
    first.settle(first.reserve(Tokens(5, 10)), uncertain=Tokens(5, 10))
    first.reserve(Tokens(7, 10))  # in flight when the run ended
    first.flush()
    again = TokenAccount.open(buffer, job, Usage(), PRICED)
    assert (again.spent, again.uncertain) == (Tokens(5, 6), Tokens(12, 20))
    again.settle(again.reserve(Tokens(1, 10)), spent=Tokens(1, 2))
    again.settle(again.reserve(Tokens(1, 10)), uncertain=Tokens(1, 3))
    again.flush()
    after = TokenAccount(buffer, a_job(lease=4))
    assert (after.spent, after.uncertain) == (Tokens(6, 8), Tokens(13, 23))


def test_a_job_without_an_account_begins_with_what_it_told() -> None:
    buffer = MemoryGenerationBuffer()
    told = Usage(teacher_prompt_tokens=3, teacher_completion_tokens=4, uncertain=5)
    opened = TokenAccount.open(buffer, a_job(lease=7), told, PRICED)
    assert (opened.spent, opened.uncertain) == (Tokens(3, 4), Tokens(completion=5))
    again = TokenAccount.open(buffer, a_job(lease=8), Usage(), PRICED)
    assert (again.spent, again.uncertain) == (opened.spent, opened.uncertain)
    delete_account(buffer, a_job(lease=8).id)
    assert buffer.read_account(a_job(lease=8).id) == {}
