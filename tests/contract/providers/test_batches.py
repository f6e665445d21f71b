"""Whole rounds of a job's questions by batch, against a server that imitates OpenAI's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from qcrd.errors import Transient
from qcrd.records.job import JobStatus, Stage
from qcrd.records.specs.spec import Budget
from qcrd.runtime.jobs.commands import transition_job
from qcrd.runtime.jobs.lease import POLL_SECONDS
from qcrd.runtime.storage.store import MemoryStore
from services.api.settings import TeacherConfig
from tests.contract.providers.batch_bench import (
    KEY,
    QUESTIONS,
    SAMPLES,
    Provide,
    attempt,
    finish,
    make_config,
    make_job,
    read_account,
    rows,
    told,
)
from tests.fakes.batches import Ending, FakeBatch, FakeBatches
from tests.fakes.providers import OPENAI_REASONING, PROMPT_TOKENS, make_error
from tests.fakes.scripted_teacher import ScriptedTeacher
from tests.unit.api.assembling.assembling_bench import Bench, adds

NEW_TOKENS = 256
"""Of each answer at most, unless a job says."""


@pytest.fixture
def provide() -> Iterator[Provide]:
    unused, open_ = ScriptedTeacher(adds), list[FakeBatches]()

    def make(*, teacher: dict[str, Any] | None = None, **script: Any):  # type: ignore[no-untyped-def]
        provider = FakeBatches(script.pop("answer", adds), key=KEY, **script)
        open_.append(provider)
        here = Bench(unused)
        here.teachers = {"default": make_config(provider, **(teacher or {}))}
        return here, provider

    yield make
    for provider in open_:
        provider.close()
    unused.close()


def end_first(*endings: Ending) -> Any:
    """The batches end so, one after the other, and those after them well."""
    left = list(endings)
    return lambda batch: left.pop(0) if left else Ending()


def test_every_sample_comes_once_and_is_paid_once(provide: Provide) -> None:
    here, provider = provide()
    job = finish(here, make_job(here))
    assert (job.stage, job.failure) == (Stage.TRAINING, None), told(here, job)
    counts = here.manifest(job).counts
    assert (counts.outputs, counts.unparseable) == (SAMPLES * QUESTIONS, 0)
    assert len(provider.batches) == 1
    assert set(provider.ran.values()) == {1}
    assert provider.choices_given == SAMPLES * QUESTIONS
    assert job.usage.teacher_prompt_tokens == PROMPT_TOKENS * QUESTIONS
    assert job.usage.teacher_completion_tokens == provider.completion_tokens
    assert (job.usage.uncertain, job.usage.estimated) == (0, False)
    assert read_account(here, job).reserved.total == 0
    assert KEY not in told(here, job)


def test_answers_are_matched_to_their_questions_whatever_their_order(provide: Provide) -> None:
    """Each output says its question's number; the output file is in reverse order."""
    here, _ = provide(answer=lambda prompt, number: adds(prompt, 1))
    job = finish(here, make_job(here, 6))
    for index, item in enumerate(here.items(job)):
        assert {each.text for each in item.positives} == {f"One more than {index}."}


def test_requests_are_as_they_would_be_sent_alone(provide: Provide) -> None:
    here, provider = provide()
    finish(here, make_job(here, top_p=0.9))
    (batch,) = provider.batches
    assert batch.endpoint == "/v1/chat/completions"
    for body in provider.bodies:
        assert (body["model"], body["n"], body["temperature"]) == ("m", SAMPLES, 0.7)
        assert body["top_p"] == 0.9
        assert body["max_tokens"] == NEW_TOKENS
        assert {"stream", "stream_options"}.isdisjoint(body)
        assert [message["role"] for message in body["messages"]] == ["system", "user"]


def test_texts_to_continue_go_to_the_other_route(provide: Provide) -> None:
    here, provider = provide()
    job = finish(here, make_job(here, prompt="completion"))
    assert job.stage is Stage.TRAINING
    assert provider.batches[0].endpoint == "/v1/completions"
    assert all("prompt" in body for body in provider.bodies)


def test_what_is_waited_for_is_said_and_no_attempt_is_used_up(provide: Provide) -> None:
    here, provider = provide()
    job = make_job(here)
    assert "batch_1 is validating" in (attempt(here, job).waiting or "")
    provider.stands = True
    provider.batches[0].status = "in_progress"
    for _ in range(50):
        job = attempt(here, job)
    assert job.waiting is not None
    assert job.waiting.startswith("teacher default: batch batch_1 is in progress, 0 of 4 done, ")
    assert ", since 20" in job.waiting
    assert (job.status, job.attempt, job.lease.owner) == (JobStatus.RUNNING, 0, "")
    lines = len(here.events.read(job.id, None, 1000))
    attempt(here, job)
    assert len(here.events.read(job.id, None, 1000)) == lines, "a look at it is no event"
    provider.stands = False
    assert finish(here, job).stage is Stage.TRAINING
    assert len(provider.batches) == 1


def test_the_rest_of_a_batch_that_expired_is_asked_again(provide: Provide) -> None:
    here, provider = provide(end=end_first(Ending("expired", done=2)))
    job = finish(here, make_job(here))
    assert here.manifest(job).counts.outputs == SAMPLES * QUESTIONS
    assert [len(batch.lines) for batch in provider.batches] == [QUESTIONS, 2]
    assert set(provider.ran.values()) == {1}
    assert job.usage.teacher_prompt_tokens == PROMPT_TOKENS * QUESTIONS
    assert job.usage.uncertain == 0


def test_nothing_three_times_in_a_row_fails_the_job(provide: Provide) -> None:
    here, provider = provide(end=lambda batch: Ending("expired", done=0))
    job = finish(here, make_job(here))
    assert job.failure is not None
    assert job.failure.code == "batches_fruitless"
    assert "nothing came of 3 batches" in job.failure.message
    assert len(provider.batches) == 3
    assert len({batch.metadata["qcrd_shard"] for batch in provider.batches}) == 3
    assert job.usage.teacher_tokens == job.usage.uncertain == 0


def test_a_batch_that_is_not_taken_fails_the_job_in_the_provider_s_words(provide: Provide) -> None:
    error = {"code": "model_not_found", "message": f"no model m for {KEY}", "line": 1}
    here, _ = provide(end=lambda batch: Ending("failed", 0, [error]))
    job = finish(here, make_job(here))
    assert job.failure is not None
    assert "no model m for" in job.failure.message
    assert "model_not_found" in job.failure.message
    assert KEY not in told(here, job)
    assert read_account(here, job).reserved.total == 0


def test_a_full_queue_at_the_provider_is_waited_for(provide: Provide) -> None:
    """And the next batch is smaller, as nothing else of this job was in it."""
    words = "Enqueued token limit reached for m. Limit: 2,000,000 enqueued tokens."
    error = {"code": "token_limit_exceeded", "message": words, "line": None}
    here, provider = provide(end=end_first(Ending("failed", 0, [error])))
    job = make_job(here, 30)
    for _ in range(2):
        job = attempt(here, job)
    assert "no room for a batch now: Enqueued token limit" in (job.waiting or "")
    job = finish(here, job)
    assert job.stage is Stage.TRAINING
    assert [len(batch.lines) for batch in provider.batches] == [30, 15, 15]


def test_a_full_queue_five_times_fails_nothing(provide: Provide) -> None:
    error = {"code": "token_limit_exceeded", "message": "Enqueued token limit", "line": None}
    here, provider = provide(end=end_first(*[Ending("failed", 0, [error])] * 5))
    assert finish(here, make_job(here)).stage is Stage.TRAINING
    assert len(provider.batches) == 6


def test_a_prompt_that_is_refused_is_left_out_and_told(provide: Provide) -> None:
    def refuse(body: dict[str, Any]) -> Any:
        words = f"This model's maximum context length is 40 tokens. Key {KEY}"
        if "What is 2 +" in body["messages"][-1]["content"]:
            return 400, make_error(words, code="context_length_exceeded")
        return None

    here, provider = provide(refuse=refuse)
    job = finish(here, make_job(here))
    counts = here.manifest(job).counts
    assert (counts.refused, counts.outputs) == (1, SAMPLES * (QUESTIONS - 1))
    assert "too_long 1 (training_file line 3" in told(here, job)
    assert KEY not in told(here, job)
    assert len(provider.batches) == 1


def test_what_was_refused_in_one_batch_is_not_asked_in_the_next(provide: Provide) -> None:
    """Else two refused questions in two batches would be asked in turns, for ever."""

    def refuse(body: dict[str, Any]) -> Any:
        question = body["messages"][-1]["content"]
        refused = any(f"What is {number} +" in question for number in (0, 5))
        return (400, make_error("no such thing")) if refused else None

    here, provider = provide(refuse=refuse, end=end_first(Ending("expired", done=3)))
    job = finish(here, make_job(here, 8))
    assert here.manifest(job).counts.refused == 2
    assert [len(batch.lines) for batch in provider.batches] == [8, 5]


def test_a_filtered_answer_is_paid_and_counted_as_refused(provide: Provide) -> None:
    here, provider = provide(
        finish_reason=lambda number: "content_filter" if number == 1 else "stop"
    )
    job = finish(here, make_job(here, n=1))
    assert here.manifest(job).counts.refused == 1
    assert "filtered 1" in told(here, job)
    assert job.usage.teacher_prompt_tokens == provider.prompt_tokens == PROMPT_TOKENS * QUESTIONS
    assert job.usage.teacher_completion_tokens == provider.completion_tokens


def test_too_many_refusals_pause_the_job_and_resuming_asks_them_again(provide: Provide) -> None:
    here, provider = provide(refuse=lambda body: (400, make_error("not today")))
    job = finish(here, make_job(here))
    assert job.status is JobStatus.PAUSED
    assert "refused 4" in (job.paused_because or "")
    provider.refuse = lambda body: None
    transition_job(here.jobs, job.id, JobStatus.QUEUED)
    assert finish(here, job).stage is Stage.TRAINING
    assert len(provider.batches) == 2


@pytest.mark.parametrize("status", [429, 500, 503])
def test_lines_that_failed_for_a_moment_are_asked_again(status: int, provide: Provide) -> None:
    left = [status] * 2

    def refuse(body: dict[str, Any]) -> Any:
        return (left.pop(), make_error("overloaded")) if left else None

    here, provider = provide(refuse=refuse)
    job = finish(here, make_job(here))
    assert here.manifest(job).counts.outputs == SAMPLES * QUESTIONS
    assert [len(batch.lines) for batch in provider.batches] == [QUESTIONS, 2]


def test_refused_parameters_are_learnt_once_and_left_out(provide: Provide) -> None:
    """Each refusal names one of them, so each costs a batch, in which nothing is paid; what is
    learnt is known to all attempts after."""

    def refuse(body: dict[str, Any]) -> Any:
        return next((OPENAI_REASONING[name] for name in OPENAI_REASONING if name in body), None)

    here, provider = provide(refuse=refuse, end=end_first(Ending(), Ending(), Ending(done=2)))
    job = finish(here, make_job(here))
    assert here.manifest(job).counts.outputs == SAMPLES * QUESTIONS
    assert [len(batch.lines) for batch in provider.batches] == [4, 4, 4, 2]
    assert "max_completion_tokens" in provider.bodies[-1]
    assert {"max_tokens", "temperature"}.isdisjoint(provider.bodies[-1])
    said = [event.message for event in here.events.read(job.id, None, 100)]
    assert sum("takes no `temperature`" in each for each in said) == 1
    assert set(provider.ran.values()) == {1}


def test_choices_that_are_not_given_are_asked_for_singly(provide: Provide) -> None:
    here, provider = provide(choices=1)
    job = finish(here, make_job(here))
    assert here.manifest(job).counts.outputs == SAMPLES * QUESTIONS
    first, second = provider.batches
    assert [line["body"].get("n") for line in first.lines] == [SAMPLES] * QUESTIONS
    assert len(second.lines) == (SAMPLES - 1) * QUESTIONS
    assert all("n" not in line["body"] for line in second.lines)


def test_a_refusal_of_several_choices_is_learnt(provide: Provide) -> None:
    def refuse(body: dict[str, Any]) -> Any:
        too_many = body.get("n", 1) > 2
        return (400, make_error("n must be at most 2", param="n")) if too_many else None

    here, provider = provide(refuse=refuse)
    job = finish(here, make_job(here, n=5))
    assert here.manifest(job).counts.outputs == 5 * QUESTIONS
    asked = [line["body"].get("n", 1) for line in provider.batches[1].lines]
    assert asked == [2, 2, 1] * QUESTIONS


def test_a_batch_whose_answer_was_lost_is_found_by_its_name(provide: Provide) -> None:
    here, provider = provide()
    provider.answers_lost = 1
    job = attempt(here, make_job(here))
    assert "responds 504" in (job.waiting or "")
    reserved = read_account(here, job).reserved.total
    assert reserved > 0
    job = finish(here, job)
    assert len(provider.batches) == 1
    assert "an earlier attempt made batch batch_1" in told(here, job)
    assert here.manifest(job).counts.outputs == SAMPLES * QUESTIONS
    assert job.usage.uncertain == 0


def test_it_is_found_behind_a_hundred_others(provide: Provide) -> None:
    here, provider = provide()
    provider.answers_lost = 1
    job = attempt(here, make_job(here))
    endpoint = provider.batches[0].endpoint
    provider.batches += [
        FakeBatch(f"other_{number}", "file", endpoint, {}, [], Ending()) for number in range(150)
    ]
    finish(here, job)
    assert len(provider.batches) == 151


class FailingStore(MemoryStore):
    """Away at the moments when an object with these words would be written."""

    words = b""

    def put(self, key: str, data: Any, *, length: int = -1) -> None:
        if self.words and isinstance(data, bytes) and self.words in data:
            raise Transient("the store is away")
        super().put(key, data, length=length)


def test_a_batch_whose_record_could_not_be_written_is_paid_once(provide: Provide) -> None:
    here, provider = provide()
    here.store = FailingStore()
    job = make_job(here)
    here.store.words = b'"batch_id": "batch_1"'
    job = attempt(here, job)
    assert len(provider.batches) == 1
    assert "the store is away" in (job.waiting or "")
    here.store.words = b""
    job = finish(here, job)
    assert len(provider.batches) == 1
    assert job.usage.teacher_prompt_tokens == PROMPT_TOKENS * QUESTIONS


def test_what_was_written_down_and_never_sent_is_sent(provide: Provide) -> None:
    here, provider = provide()
    provider.refuses_creation = (503, make_error("we are away"))
    job = attempt(here, make_job(here))
    assert provider.batches == []
    provider.refuses_creation = None
    job = finish(here, job)
    assert len(provider.batches) == 1
    assert (job.stage, job.usage.uncertain) == (Stage.TRAINING, 0)


def test_a_batch_that_is_refused_fails_the_job_and_costs_nothing(provide: Provide) -> None:
    here, provider = provide()
    provider.refuses_creation = (400, make_error("the model m has no batches"))
    job = attempt(here, make_job(here))
    assert job.failure is not None
    assert "refuses a batch: the model m has no batches" in job.failure.message
    assert read_account(here, job).reserved.total == 0
    assert here.store.list("batches/") == [f"batches/{job.id}/notes.json"]


def test_another_job_reuses_the_outputs(provide: Provide) -> None:
    here, provider = provide()
    finish(here, make_job(here))
    again = attempt(here, make_job(here))
    assert again.stage is Stage.TRAINING
    assert here.manifest(again).counts.reused == SAMPLES * QUESTIONS
    assert len(provider.batches) == 1
    assert again.usage.cost in (None, 0.0)
    more = finish(here, make_job(here, n=5))
    assert here.manifest(more).counts.reused == SAMPLES * QUESTIONS
    assert [line["body"].get("n") for line in provider.batches[1].lines] == [2] * QUESTIONS


def test_tokens_by_batch_cost_their_factor(provide: Provide) -> None:
    """Half of 11 · 1 + words · 2 millionths a prompt; a tenth of the price for 5 cached ones."""
    prices = {"prompt_price": 1.0, "completion_price": 2.0, "cached_prompt_price": 0.1}
    here, provider = provide(teacher=prices, cached=5)
    usage = finish(here, make_job(here)).usage
    full = (6 + 5 * 0.1) * QUESTIONS + 2.0 * provider.completion_tokens
    assert usage.cost == pytest.approx(0.5 * full / 1e6, rel=1e-9)
    assert usage.teacher_cached_tokens == 5 * QUESTIONS


def test_a_budget_in_money_counts_the_factor(provide: Provide) -> None:
    """A request can take a prompt of 50 to 300 tokens at 1 and 256 new ones at 2, 562 to 812 in
    all: 1,700 are enough for two or three at the full price, and for twice as many at half of it.
    """
    prices = {"prompt_price": 1.0, "completion_price": 2.0}
    asked = []
    for factor in (1.0, 0.5):
        here, provider = provide(teacher={**prices, "batch_factor": factor})
        attempt(here, make_job(here, 12, budget=Budget(cost=1700 / 1e6), n=1))
        asked.append(len(provider.batches[0].lines))
    assert asked[0] in (2, 3)
    assert asked[1] in (2 * asked[0], 2 * asked[0] + 1)


def test_a_shard_is_as_large_as_the_budget_and_the_next_takes_what_is_left(
    provide: Provide,
) -> None:
    here, provider = provide()
    limit = 2 * (SAMPLES * NEW_TOKENS) + 400
    job = make_job(here, 6, budget=Budget(teacher_tokens=limit))
    for _ in range(40):
        job = attempt(here, job)
        account = read_account(here, job)
        assert (account.spent + account.uncertain + account.reserved).total <= limit
        if job.stage is Stage.TRAINING or job.status is not JobStatus.RUNNING:
            break
    assert job.stage is Stage.TRAINING, told(here, job)
    assert 0 < len(provider.batches[0].lines) < 6
    assert job.usage.teacher_tokens <= limit


def test_a_budget_without_room_for_one_request_pauses(provide: Provide) -> None:
    here, provider = provide()
    job = attempt(here, make_job(here, budget=Budget(teacher_tokens=NEW_TOKENS)))
    assert job.status is JobStatus.PAUSED
    assert "exceed the budget" in (job.paused_because or "")
    assert provider.batches == []


def test_what_is_out_stays_reserved_over_attempts_and_a_release(provide: Provide) -> None:
    here, _ = provide()
    job = attempt(here, make_job(here))
    first = read_account(here, job)
    assert first.reserved.total > 0
    for _ in range(2):
        job = attempt(here, job)
        account = read_account(here, job)
        assert (account.reserved, account.uncertain.total) == (first.reserved, 0)
    released = here.jobs.update(
        job.id, lambda one: one.model_copy(update={"uncertain_released": one.lease.token})
    )
    assert read_account(here, released).reserved == first.reserved


def test_a_paused_job_keeps_its_batch_and_takes_it_up_when_it_is_resumed(provide: Provide) -> None:
    here, provider = provide()
    job = attempt(here, make_job(here))
    transition_job(here.jobs, job.id, JobStatus.PAUSED)
    attempt(here, job)
    assert here.jobs.get(job.id).status is JobStatus.PAUSED
    transition_job(here.jobs, job.id, JobStatus.QUEUED)
    assert finish(here, job).stage is Stage.TRAINING
    assert len(provider.batches) == 1


def test_a_batch_that_nobody_knows_any_more_is_uncertain_and_pauses(provide: Provide) -> None:
    here, provider = provide()
    job = attempt(here, make_job(here))
    reserved = read_account(here, job).reserved.total
    provider.batches.clear()
    job = attempt(here, job)
    assert job.status is JobStatus.PAUSED
    assert "does not know any more" in (job.paused_because or "")
    account = read_account(here, job)
    assert (account.uncertain.total, account.reserved.total) == (reserved, 0)
    transition_job(here.jobs, job.id, JobStatus.QUEUED)
    assert finish(here, job).stage is Stage.TRAINING


def test_answers_that_were_counted_and_cannot_be_had_are_uncertain(provide: Provide) -> None:
    """The output file is gone when the batch has ended: its lines are asked for again."""
    here, provider = provide()
    job = attempt(here, make_job(here))
    reserved = read_account(here, job).reserved.total
    provider.lost_files = {"file-output-batch_1"}
    job = finish(here, job)
    assert job.stage is Stage.TRAINING
    assert job.usage.uncertain == reserved
    assert len(provider.batches) == 2


def test_empty_answers_pause_the_job_once_they_are_paid(provide: Provide) -> None:
    here, _ = provide(answer=lambda prompt, number: "")
    job = finish(here, make_job(here, 20, n=1))
    assert job.status is JobStatus.PAUSED
    assert "empty" in (job.paused_because or "")
    assert read_account(here, job).reserved.total == 0
    assert job.usage.teacher_prompt_tokens == PROMPT_TOKENS * 20


def test_a_wrong_key_fails_without_being_told(provide: Provide) -> None:
    here, provider = provide()
    provider.key = "sk-another-0123456789"
    job = attempt(here, make_job(here))
    assert job.failure is not None
    assert "refuses the key" in job.failure.message
    assert KEY not in told(here, job)


def test_a_job_may_say_otherwise_than_its_teacher(provide: Provide) -> None:
    here, provider = provide(teacher={"batch": False})
    assert finish(here, make_job(here, batch=True)).stage is Stage.TRAINING
    assert len(provider.batches) == 1


def test_a_job_of_a_tgi_teacher_cannot_ask_by_batch(provide: Provide) -> None:
    here, _ = provide()
    here.teachers = {"default": here.teachers["default"].model_copy(update={"api": "tgi"})}
    job = attempt(here, make_job(here, batch=True))
    assert job.failure is not None
    assert job.failure.param == "method.qcrd.rationales.batch"


def test_what_is_out_is_taken_when_the_teacher_is_asked_without_batches_again(
    provide: Provide,
) -> None:
    here, provider = provide()
    job = attempt(here, make_job(here))
    here.teachers = {"default": make_config(provider, batch=False)}
    assert finish(here, job).stage is Stage.TRAINING
    assert provider.choices_given == SAMPLES * QUESTIONS


def test_what_is_out_at_a_teacher_that_speaks_tgi_now_is_uncertain(provide: Provide) -> None:
    here, _ = provide()
    job = attempt(here, make_job(here))
    reserved = read_account(here, job).reserved.total
    other = ScriptedTeacher(adds)
    here.teachers = {"default": TeacherConfig(url=other.url)}
    job = attempt(here, job)
    assert job.status is JobStatus.PAUSED
    assert "of another teacher server" in (job.paused_because or "")
    assert read_account(here, job).uncertain.total == reserved
    transition_job(here.jobs, job.id, JobStatus.QUEUED)
    assert finish(here, job).stage is Stage.TRAINING
    other.close()


def test_a_refusal_is_remembered_when_the_rest_is_done_again(provide: Provide) -> None:
    """A worker that dies after the last batch, before the set is written, costs no other batch."""

    def refuse(body: dict[str, Any]) -> Any:
        is_refused = "What is 2 +" in body["messages"][-1]["content"]
        return (400, make_error("no such thing")) if is_refused else None

    here, provider = provide(refuse=refuse)
    here.store = FailingStore()
    job = make_job(here)
    here.store.words = b'"shards"'  # of the set's manifest
    for _ in range(8):
        job = attempt(here, job)
    assert "the store is away" in (job.waiting or "")
    here.store.words = b""
    assert here.manifest(finish(here, job)).counts.refused == 1
    assert len(provider.batches) == 1


def test_texts_with_odd_line_ends_come_whole(provide: Provide) -> None:
    """U+2028 and U+0085 are line ends to many readers, and none in a file of JSON lines."""
    here, _ = provide(answer=lambda prompt, number: f"naïve\u2028東京\x85🙂{adds(prompt, 1)}")
    job = finish(here, make_job(here))
    assert here.manifest(job).counts.outputs == SAMPLES * QUESTIONS
    assert "東京" in here.items(job)[0].positives[0].text


def test_a_file_that_is_larger_than_what_is_kept_in_memory_is_sent_whole(
    provide: Provide,
) -> None:
    here, provider = provide()
    padded = [{**row, "question": f"{'x ' * 500_000}{row['question']}"} for row in rows(12)]
    job = here.job(here.file(padded), rationales={"n": 1})
    assert finish(here, job).stage is Stage.TRAINING
    assert [len(batch.lines) for batch in provider.batches] == [12]


def test_rows_are_asked_in_the_order_of_the_file(provide: Provide) -> None:
    here, provider = provide()
    finish(here, make_job(here, 5))
    asked = [body["messages"][-1]["content"] for body in provider.bodies]
    assert asked == [row["question"] for row in rows(5)]


def test_a_job_that_is_paused_while_its_file_is_sent_pays_nothing(provide: Provide) -> None:
    """And sends the same when it is resumed."""
    here, provider = provide()
    job = make_job(here)

    def pause(file: bytes) -> None:
        transition_job(here.jobs, job.id, JobStatus.PAUSED)
        # The worker reads the job once a second.
        deadline = time.monotonic() + POLL_SECONDS
        while time.monotonic() < deadline:
            time.sleep(0.05)

    provider.on_upload = pause
    job = attempt(here, job)
    assert (job.status, provider.batches) == (JobStatus.PAUSED, [])
    provider.on_upload = lambda file: None
    transition_job(here.jobs, job.id, JobStatus.QUEUED)
    job = finish(here, job)
    assert (job.stage, len(provider.batches)) == (Stage.TRAINING, 1)
    assert job.usage.uncertain == 0


def test_tokens_that_are_not_told_are_estimated(provide: Provide) -> None:
    here, _ = provide(has_usage=False)
    job = finish(here, make_job(here))
    assert here.manifest(job).counts.outputs == SAMPLES * QUESTIONS
    assert job.usage.estimated
    assert job.usage.teacher_prompt_tokens > 0
    assert job.usage.teacher_completion_tokens > 0


def test_reasoning_is_kept_with_the_output(provide: Provide) -> None:
    here, _ = provide(reasons="First I add one.")
    job = finish(here, make_job(here, **{"from": "reasoning"}))
    assert here.items(job)[0].positives[0].text.startswith("First I add one.")


def test_what_a_batch_can_cost_is_written_down_before_it_is_sent(provide: Provide) -> None:
    """With the shard's record, as a killed worker would leave them."""
    here, provider = provide()
    job, seen = make_job(here), list[tuple[int, int]]()

    def look(file: bytes) -> None:
        records = [key for key in here.store.list("batches/") if "/shard-" in key]
        seen.append((len(records), read_account(here, job).reserved.total))

    provider.on_upload = look
    after = read_account(here, attempt(here, job))
    ((records, reserved),) = seen
    assert records == 2, "the record and its lines"
    assert reserved == after.reserved.total >= SAMPLES * QUESTIONS * NEW_TOKENS


def test_samples_that_are_filtered_are_asked_once_beside_those_that_are_there(
    provide: Provide,
) -> None:
    """Such a question is not refused: it has an output."""
    here, provider = provide()
    finish(here, make_job(here, n=1))
    provider.finish_reason = lambda number: "content_filter"
    job = finish(here, make_job(here))
    assert job.stage is Stage.TRAINING
    assert here.manifest(job).counts.outputs == QUESTIONS
    assert len(provider.batches) == 2
