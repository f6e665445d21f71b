"""What training tells of its rounds and results: once each, whoever died in between."""

from __future__ import annotations

import time
from typing import Any, cast

import pytest

from qcrd.errors import Invalid
from qcrd.method.student.seq2seq import Seq2SeqStudent
from qcrd.method.training.progress import IterationFinished, JudgePretrained
from qcrd.method.training.schedule import make_schedule
from qcrd.method.training.training_example import TrainingExample
from qcrd.records.job import Event, Job, JobStatus, Stage
from qcrd.records.rationales import (
    Question,
    RationaleCounts,
    RationaleItem,
    RationaleManifest,
    Vote,
)
from qcrd.records.reports.accuracy import Accuracy
from qcrd.records.specs.spec import JobSpec, MethodSpec
from qcrd.runtime.jobs.commands import claim_job
from qcrd.runtime.jobs.lease import LeaseHeartbeat
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.stage_context import StageContext, WorkerDeps
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from qcrd.runtime.storage.store import MemoryStore
from services.trainer import student_run, training_events
from services.trainer.checkpoints.store import CheckpointStore, StudentResult
from services.trainer.data.preflight import check_questions_differ, warn_about_cut_questions
from services.trainer.data.training_dataset import LabeledQuestions, TrainingDataset, make_example
from tests import tiny

ID = "ftjob-" + "0" * 24
MANIFEST = RationaleManifest(
    id="set-" + "0" * 24,
    shards=(),
    counts=RationaleCounts(
        questions=2, outputs=0, parsed=0, unparseable=0, majority_right=0, majority_wrong=0,
        ties=0, positives=0, negatives=0,
    ),
    created_at=0.0,
)  # fmt: skip
RIGHT = Accuracy(accuracy=1.0, low=0.5, high=1.0, n=4)
ROUND = IterationFinished(2, 0.75, True, judge_metrics={"auc": 0.9})


class Mortal(MemoryEventLog):
    """Its process dies before the event number `last` is written, once."""

    last = 1_000

    def append(self, job_id: str, message: str, **given: Any) -> Event:
        self.last -= 1
        if self.last == 0:
            raise SystemExit
        return super().append(job_id, message, **given)


@pytest.fixture
def events() -> Mortal:
    return Mortal()


@pytest.fixture
def stage(events: Mortal) -> StageContext:
    jobs, spec = MemoryJobStore(), JobSpec(model="tiny", training_file="file-" + "0" * 24)
    jobs.create(Job(id=ID, spec=spec, status=JobStatus.QUEUED, created_at=time.time()))
    job = claim_job(jobs, ID, "test", stage=Stage.ASSEMBLING, now=time.time())
    assert job is not None
    deps = WorkerDeps(jobs, events, MemoryStore(), MemoryJobQueue())
    return StageContext(deps, job, LeaseHeartbeat(jobs, job, heartbeat=60, ttl=60))


def messages(events: Mortal) -> list[str]:
    return [event.message for event in events.read(ID)]


def test_a_round_that_is_done_again_is_told_once_and_so_is_its_judge(
    stage: StageContext, events: Mortal
) -> None:
    events.last = 2
    with pytest.raises(SystemExit):
        training_events.emit_iteration(stage, "qcrd", ROUND)
    for _ in range(2):
        training_events.emit_iteration(stage, "qcrd", ROUND)
    assert messages(events) == [
        "qcrd: iteration 2, validation 0.750, the best so far",
        "qcrd: judge of iteration 2, AUC 0.900",
    ]


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        (
            {"questions": 9, "questions_with_real_negatives": 0, "questions_without_positives": 0},
            ["give it some"],
        ),
        (
            {"questions": 9, "questions_with_real_negatives": 0, "questions_without_positives": 4},
            ["could not use"],
        ),
        ({"questions": 9, "questions_with_real_negatives": 1}, []),
        # an earlier release of the discriminator counts none
        ({"positives": 9, "negatives": 0}, []),
    ],
)
def test_a_judge_without_wrong_outputs_is_warned_about_once(
    stage: StageContext, events: Mortal, metrics: dict[str, float], told: list[str]
) -> None:
    for _ in range(2):
        training_events.emit_judge_health(stage, "qcrd", 0, JudgePretrained(metrics, None))
    warnings = [event for event in events.read(ID) if event.level == "warn"]
    assert [event.message[-len(end) :] for event, end in zip(warnings, told, strict=True)] == told
    for event in warnings:
        assert event.message.startswith("the judge had no wrong teacher output to learn from")
        assert "`rationales.positive_rule: gold`" in event.message
        assert event.data == {"judge": metrics}
        assert ("4 questions have wrong outputs" in event.message) == (told == ["could not use"])


def test_a_result_that_was_kept_but_not_told_is_told_by_the_next_attempt(
    stage: StageContext, events: Mortal
) -> None:
    checkpoints = CheckpointStore(stage.store, ID, run_digest="run", interval_seconds=0.0)
    checkpoints.save_result(
        "qcrd",
        StudentResult(
            validation=RIGHT, test=RIGHT, predictions=(), flops=1.0, steps=1, seconds=1.0
        ),
    )
    course = student_run.StudentRun(
        schedule=make_schedule("qcrd", MethodSpec(), n_examples=4, seed=0),
        dataset=cast(Any, None),
        make_student=lambda: pytest.fail("it is trained already"),
        judge=None,
    )
    for _ in range(2):
        student_run.train_student(stage, course, checkpoints, lambda student, answers: None)
    assert messages(events) == ["qcrd: test accuracy 1.000 [0.500, 1.000], n = 4"]


def test_questions_that_are_cut_are_counted_in_one_event(
    stage: StageContext, events: Mortal
) -> None:
    items = [
        RationaleItem(
            question=Question(id=str(number), text=text),
            label="animal",
            gold="animal",
            vote=Vote(answer="animal", margin=1.0, tie=False, counts={}, unparseable=0),
            positives=(),
            negatives=(),
        )
        for number, text in enumerate(("what is a trout", "what is a trout " * 20))
    ]
    questions = tuple(item.question for item in items)
    dataset = TrainingDataset(
        MANIFEST,
        tuple(make_example(item, stage.job.spec.settings) for item in items),
        questions,
        LabeledQuestions(questions, ("animal",) * 2, ("animal",) * 2),
        (),
    )
    student = Seq2SeqStudent(
        tiny.t5(), tiny.tokenizer(), max_question_tokens=32, max_target_tokens=16
    )
    for _ in range(2):  # for each of the job's students
        warn_about_cut_questions(stage, student, dataset)
    (event,) = events.read(ID)
    assert event.level == "warn"
    assert event.data == {"cut_questions": 2, "max_question_tokens": 32}
    assert event.message.startswith("2 of 4 questions are longer than the 32 tokens")


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (("what is a trout", "what is a hammer"), None),
        (("what is a trout", "zebra zebra zebra", "yak yak yak"), "2 of 3"),
        (("zebra zebra", "yak yak"), "refused"),
        (("zebra zebra",), "does not know"),
    ],
)
def test_questions_that_are_the_same_to_the_student_are_told(
    stage: StageContext, events: Mortal, texts: tuple[str, ...], told: str | None
) -> None:
    """A tokenizer of whole words, to which those that it does not know are one."""
    examples = tuple(TrainingExample(text, text, "animal", "animal") for text in texts)
    none = LabeledQuestions((), (), ())
    dataset = TrainingDataset(MANIFEST, examples, (), none, ())
    student = Seq2SeqStudent(
        tiny.t5(), tiny.tokenizer(), max_question_tokens=32, max_target_tokens=16
    )
    if told == "refused":
        with pytest.raises(Invalid, match="2 of 2 training questions read the same") as caught:
            check_questions_differ(stage, student, dataset)
        assert (caught.value.param, caught.value.code) == ("model", "indistinct_questions")
        return
    for _ in range(2):  # for each of the job's students
        check_questions_differ(stage, student, dataset)
    said = [event for event in events.read(ID) if event.level == "warn"]
    assert len(said) == (told is not None)
    assert all((told or "") in event.message for event in said)
    assert all(event.data["unknown_share"] > 0.2 for event in said)


@pytest.mark.parametrize(
    ("source", "level"), [("student_lag", "info"), ("fixed", "warn"), ("teacher_minority", None)]
)
def test_a_training_on_the_untrained_students_negatives_alone_is_warned_of(
    stage: StageContext, events: Mortal, source: str, level: str | None
) -> None:
    spec = MethodSpec.model_validate({"negatives": {"source": source}})
    schedule = make_schedule("qcrd", spec, n_examples=800, seed=0)
    for _ in range(2):
        training_events.emit_untrained_share(stage, schedule, 800)
    told = events.read(ID)
    assert [event.level for event in told] == ([] if level is None else [level])
    assert all(("negatives.lag" in event.message) == (level == "warn") for event in told)


NEGATIVES = {
    "samples": 40.0, "negatives": 30.0, "in_force_share": 0.0, "right_share": 0.25,
    "wrong_share": 0.5, "unread_share": 0.25, "cut_share": 0.0, "ce_median": 7.2,
    "temperature": 1.5,
}  # fmt: skip


def test_what_the_negatives_were_is_told_with_their_iteration(
    stage: StageContext, events: Mortal
) -> None:
    low = {**NEGATIVES, "temperature": 0.5, "temperature_share": 0.1}
    training_events.emit_iteration(
        stage, "qcrd", IterationFinished(1, None, False, negative_metrics=NEGATIVES)
    )
    training_events.emit_iteration(
        stage, "qcrd", IterationFinished(2, 0.5, True, negative_metrics=low)
    )
    first, negatives, second, _, warning = events.read(ID)
    assert first.message == "qcrd: iteration 1"
    assert "validation" not in first.data
    assert negatives.message == (
        "qcrd: 30 negatives of 40 samples at temperature 1.5, in force in 0% of the questions; 25% "
        "of the samples right, 50% wrong, 25% without an answer, 0% cut"
    )
    assert second.data["validation"] == 0.5
    assert warning.level == "warn"
    assert "over_positive" in warning.message


def test_negatives_that_do_nothing_are_warned_of_once(stage: StageContext, events: Mortal) -> None:
    inert, acting = NEGATIVES, {**NEGATIVES, "in_force_share": 0.5}
    watching = training_events.InertNegatives(stage, "qcrd")
    for metrics in (inert, acting, {}, inert):
        watching.watch(metrics)
    assert not events.read(ID)
    watching.watch(inert)
    watching.watch(inert)
    (warning,) = events.read(ID)
    assert warning.level == "warn"
    assert "negatives.temperature: auto" in warning.message
    assert "7.2 nats" in warning.message


def test_negatives_of_the_minority_are_told_with_the_gradients_of_both_terms(
    stage: StageContext, events: Mortal
) -> None:
    metrics = {
        "negatives": 3.0, "teacher_negatives": 3.0, "in_force_share": 0.5,
        "positive_gradient": 2.0, "negative_gradient": 0.5,
    }  # fmt: skip
    training_events.emit_iteration(
        stage, "qcrd", IterationFinished(1, None, False, negative_metrics=metrics)
    )
    _, negatives = events.read(ID)
    assert negatives.message == (
        "qcrd: 3 negatives (3 of the teacher's minority), in force in 50% of the questions; their "
        "gradient's norm is 25% of the positives'"
    )
    assert negatives.data["negatives"] == metrics


@pytest.mark.parametrize(
    ("metrics", "advice"),
    [
        ({**NEGATIVES, "negatives": 0.0, "unread_share": 1.0}, "`negatives.filter: none`"),
        ({"negatives": 0.0, "in_force_share": 0.0}, "`rationales.n`"),
    ],
)
def test_a_training_without_a_negative_is_warned_of_as_such(
    stage: StageContext, events: Mortal, metrics: dict[str, float], advice: str
) -> None:
    watching = training_events.InertNegatives(stage, "qcrd")
    for _ in range(3):
        watching.watch(metrics)
    (warning,) = events.read(ID)
    assert warning.level == "warn"
    assert advice in warning.message
    assert "nats" not in warning.message


def test_no_usable_sample_at_any_temperature_is_not_the_margins_fault(
    stage: StageContext, events: Mortal
) -> None:
    metrics = {**NEGATIVES, "negatives": 0.0, "temperature_share": 0.0, "temperature_usable": 0.0}
    training_events.emit_iteration(
        stage, "qcrd", IterationFinished(1, None, False, negative_metrics=metrics)
    )
    *_, warning = events.read(ID)
    assert "no usable sample" in warning.message
    assert "negatives.filter" in warning.message
    assert "loss.delta" not in warning.message
