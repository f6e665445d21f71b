"""Which samples are negatives, at which temperature they are drawn, and what is told of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from qcrd.method.student.targets import Target
from qcrd.method.training.checkpoint import capture_state, restore_state
from qcrd.method.training.negatives.sample_filter import SampledRationales, SampleFilter, SampleKind
from qcrd.method.training.negatives.sampler import NegativeSampler, NegativeSampleRequest
from qcrd.method.training.progress import IterationFinished, StepFinished
from qcrd.method.training.schedule import make_schedule
from qcrd.method.training.trainer import Trainer
from qcrd.method.training.training_example import TrainingExample
from qcrd.records.rationales import Rationale
from qcrd.records.specs.spec import MethodSpec
from qcrd.records.specs.training_spec import LossSpec
from tests.unit.method.training.test_trainer import judge, lessons, spec, student, validate

TASK = {"answer": "label", "labels": ["animal", "fruit", "tool", "instrument"]}
SAID = {
    "right": "it swims . So the answer is animal.",
    "wrong": "it grows . So the answer is fruit.",
    "unread": "it swims so it is a thing",
    "cut": "it swims in water on trees in",
}


def rationale(text: str, **more: Any) -> Rationale:
    return Rationale(id=text, question_id="q", text=text, **more)


def make_spec(**negatives: Any) -> MethodSpec:
    given = MethodSpec.model_validate({"task": TASK, "negatives": {"lag": 1, **negatives}})
    update = {"task": given.task, "negatives": given.negatives}
    return spec(iterations=6, iteration_steps=1).model_copy(update=update)


@pytest.mark.parametrize(
    ("setting", "kept"),
    [("none", ["right", "wrong", "unread", "cut"]), ("wrong_only", ["wrong"])],
)
def test_samples_are_sorted_by_their_answers(setting: str, kept: list[str]) -> None:
    example = replace(lessons()[0], id="q", gold="animal")
    samples = [rationale(text, is_cut=name == "cut") for name, text in SAID.items()]
    repeated = example.positives[0].model_copy(update={"id": "again"})
    found = SampleFilter(make_spec(filter=setting), [example]).apply(
        [example], {"q": [*samples, repeated]}
    )
    assert [r.text for r in found.kept["q"]] == [SAID[name] for name in kept]
    assert found.counts == dict.fromkeys(set(SampleKind) - {SampleKind.UNSURE}, 1)


REASONED = {
    "right": "it swims answer: animal",
    "wrong": "it grows answer: fruit",
    "repeated": "{positive} answer: fruit",
    "unread": "it swims so it is a thing",
    "unreasoned": "answer: fruit",
    "cut": "it hits nails answer: fru",
}


@pytest.mark.parametrize(
    ("keep_right", "is_sure", "positives", "negatives"),
    [
        (False, True, [], ["it grows"]),
        (True, True, ["it swims"], ["it grows"]),
        (False, False, [], []),  # a vote of three of five does not say what is wrong
        (True, False, ["it swims"], []),
    ],
)
def test_what_answers_behind_its_rationale_is_sorted_by_that_answer(
    keep_right: bool, is_sure: bool, positives: list[str], negatives: list[str]
) -> None:
    """And what is left of it is the rationale, which the judge and eq. 7 read without it."""
    example = replace(lessons()[0], id="q", gold="animal", is_sure=is_sure)
    texts = {k: t.format(positive=example.positives[0].text) for k, t in REASONED.items()}
    samples = [rationale(text, is_cut=name == "cut") for name, text in texts.items()]
    sorter = SampleFilter(make_spec(keep_right=keep_right), [example], reasons=True)
    found = sorter.apply([example], {"q": samples})
    right, wrong = sorter.split(example, found.kept["q"])
    assert [r.text for r in right] == positives
    assert [(r.text, r.answer) for r in wrong] == [(text, "fruit") for text in negatives]
    kinds = {SampleKind.RIGHT: 1, SampleKind.UNREAD: 2, SampleKind.CUT: 1, SampleKind.REPEATED: 1}
    assert found.counts == kinds | {SampleKind.WRONG if is_sure else SampleKind.UNSURE: 1}


def test_a_right_sample_that_is_kept_is_a_positive_of_its_question() -> None:
    """Wherever samples are used: no temperature, score or negative is measured on it."""
    example = replace(lessons()[0], id="q", gold="animal")
    given = make_spec(keep_right=True)
    student_spec = given.student.model_copy(update={"answers": "reasoned"})
    given = given.model_copy(update={"student": student_spec})
    schedule = make_schedule("qcrd", given, n_examples=1, seed=0)
    supply = Trainer(student(), [example], schedule, validate, judge()).negative_supply
    right, wrong = rationale("it swims", answer="animal"), rationale("it grows", answer="fruit")
    kept = {"q": (right, wrong)}
    assert supply.split(example, kept) == ((right,), (wrong,))
    (attached,) = supply.attach([example], kept)
    assert attached.positives == (*example.positives, right)
    assert attached.negatives == (wrong,)


def without_answers(example: TrainingExample) -> TrainingExample:
    return replace(example, positives=(rationale("it swims in water"),))


@pytest.mark.parametrize("setting", ["none", "wrong_only"])
@pytest.mark.parametrize("source", ["student_lag", "teacher_minority"])
@pytest.mark.parametrize("has_answers", [True, False])
def test_a_filter_that_is_bound_to_drop_all_samples_is_known_before_them(
    setting: str, source: str, has_answers: bool
) -> None:
    given = make_spec(filter=setting, source=source)
    examples = [without_answers(example) for example in lessons()]
    if has_answers:
        examples = [replace(e, positives=(rationale(SAID["right"]),)) for e in examples]
    made = make_schedule("qcrd", given, n_examples=8, seed=0)
    trainer = Trainer(student(), examples, made, validate, judge())
    is_bound = setting == "wrong_only" and source == "student_lag" and not has_answers
    assert trainer.negative_supply.drops_all_samples == is_bound


@pytest.mark.parametrize(("setting", "kept"), [("none", 3), ("wrong_only", 1)])
def test_a_minority_that_is_right_is_a_negative_only_without_a_filter(
    setting: str, kept: int
) -> None:
    """By gold; a vote's minority may be right, and may have no answer."""
    answers = ("animal", "fruit", None)
    own = tuple(rationale(f"said {answer}", answer=answer) for answer in answers)
    example = replace(lessons()[0], gold="animal", negatives=own)
    given = make_spec(filter=setting, source="teacher_minority")
    made = make_schedule("qcrd", given, n_examples=1, seed=0)
    trainer = Trainer(student(), [example], made, validate, judge())
    (attached,) = trainer.negative_supply.attach([example], {})
    assert len(attached.negatives) == kept
    assert "fruit" in {one.answer for one in attached.negatives}


@pytest.mark.parametrize("temperature", [1.5, "auto"])
def test_negatives_of_the_teacher_alone_are_measured_too(temperature: float | str) -> None:
    given = make_spec(source="teacher_minority", temperature=temperature)
    for margin, in_force in ((99.0, 1.0), (1e-9, 0.0)):
        loss = given.loss.model_copy(update={"delta": margin})
        first, *_ = train(ScriptedSampler({}), given.model_copy(update={"loss": loss}))
        told = first.negative_metrics
        assert told["negatives"] == told["teacher_negatives"] == 4
        assert told["in_force_share"] == in_force
        assert told["ce_q1"] <= told["ce_median"] <= told["ce_q3"]
        assert "samples" not in told
        assert "temperature" not in told


class ScriptedSampler(NegativeSampler):
    """Says what it is told for each temperature, and notes what it was asked."""

    def __init__(self, texts: dict[float, str]) -> None:
        self.texts = texts
        self.flops = 0.0
        self.asked: list[tuple[float, float, int]] = []

    def prefetch(self, requests: Sequence[NegativeSampleRequest]) -> None:
        """It has its texts already."""

    def close(self) -> None:
        """It holds nothing."""

    def sample(self, requests: Sequence[NegativeSampleRequest]) -> SampledRationales:
        ((_, params),) = requests
        self.asked.append((params.temperature, params.top_p, len(params.questions)))
        self.flops += len(params.questions)
        text = self.texts.get(params.temperature, "it " * 8)
        return {key: (rationale(text, entropy=0.5),) for key, _ in params.questions}


def train(sampler: ScriptedSampler, given: MethodSpec) -> list[IterationFinished]:
    made = make_schedule("dss+positives+negatives", given, n_examples=8, seed=0)
    trainer = Trainer(student(), lessons(), made, validate, negative_sampler=sampler)
    records = list(trainer.run())
    return [r for r in records if isinstance(r, IterationFinished)]


def margin_between(low: float) -> MethodSpec:
    given = make_spec(temperature="auto", top_p=0.9)
    return given.model_copy(update={"loss": given.loss.model_copy(update={"delta": low})})


def test_the_highest_temperature_whose_samples_act_is_taken() -> None:
    """With a margin that everything is under, that is the first of them; with one that nothing
    is under, the last, and its share says so."""
    acting, inert = ScriptedSampler({}), ScriptedSampler({})
    ends = train(acting, margin_between(99.0))
    assert [t for t, _, _ in acting.asked] == [1.5] * 8  # six iterations, and measured twice
    assert ends[0].negative_metrics["temperature"] == 1.5
    assert ends[0].negative_metrics["in_force_share"] == 1.0
    ends = train(inert, margin_between(1e-9))
    assert [t for t, _, _ in inert.asked[:6]] == [1.5, 1.2, 1.0, 0.85, 0.7, 0.5]
    assert ends[0].negative_metrics["temperature"] == 0.5
    assert ends[0].negative_metrics["temperature_share"] == 0.0
    assert {top_p for _, top_p, _ in inert.asked} == {0.9}
    # Measured anew in the sixth iteration.
    assert [t for t, _, _ in inert.asked[6:]].count(1.5) == 1
    assert ends[-1].flops > inert.flops > 0


class BreakingSampler(ScriptedSampler):
    """Breaks off every sample but one of a question in eight, at each temperature above 1."""

    def sample(self, requests: Sequence[NegativeSampleRequest]) -> SampledRationales:
        ((_, params),) = requests
        self.asked.append((params.temperature, params.top_p, len(params.questions)))
        return {
            key: (rationale("it swims", is_cut=params.temperature > 1 and bool(place % 8)),)
            for place, (key, _) in enumerate(params.questions)
        }


def test_a_temperature_at_which_hardly_a_sample_is_whole_is_not_taken() -> None:
    """However many of those few are below the margin."""
    given = margin_between(99.0)
    whole = given.hyperparameters.model_copy(update={"iteration_steps": 2})
    ends = train(BreakingSampler({}), given.model_copy(update={"hyperparameters": whole}))
    assert ends[0].negative_metrics["temperature"] == 1.0
    assert ends[0].negative_metrics["temperature_share"] == 1.0


def test_what_was_measured_is_told_with_every_iteration() -> None:
    first, *_ = train(ScriptedSampler({}), make_spec())
    told = first.negative_metrics
    assert told["entropy"] == 0.5
    assert told["samples"] == told["negatives"] == 4
    assert told["unread_share"] == 1.0
    assert told["ce_q1"] <= told["ce_median"] <= told["ce_q3"]


def test_the_norms_of_both_gradients_are_told_where_a_negative_acts() -> None:
    given = make_spec()
    acting = given.model_copy(update={"loss": given.loss.model_copy(update={"delta": 99.0})})
    made = make_schedule("dss+positives+negatives", acting, n_examples=8, seed=0)
    trainer = Trainer(student(), lessons(), made, validate, negative_sampler=ScriptedSampler({}))
    steps = [r for r in trainer.run() if isinstance(r, StepFinished)]
    assert all(r.losses["negative_gradient"] > 0 for r in steps)
    assert all(r.losses["positive_gradient"] > 0 for r in steps)


def test_an_iteration_tells_the_norms_of_its_first_step() -> None:
    """Of steps not all are told; a run that is taken up again tells them too."""
    given = make_spec()
    acting = given.model_copy(update={"loss": given.loss.model_copy(update={"delta": 99.0})})
    acting = acting.model_copy(
        update={"hyperparameters": acting.hyperparameters.model_copy(update={"iteration_steps": 2})}
    )
    made = make_schedule("dss+positives+negatives", acting, n_examples=8, seed=0)
    first = Trainer(student(), lessons(), made, validate, negative_sampler=ScriptedSampler({}))
    step = next(record for record in first.run() if isinstance(record, StepFinished))
    second = Trainer(student(), lessons(), made, validate, negative_sampler=ScriptedSampler({}))
    restore_state(second, capture_state(first))
    end = next(record for record in second.run() if isinstance(record, IterationFinished))
    for name in ("positive_gradient", "negative_gradient"):
        assert end.negative_metrics[name] == step.losses[name] > 0


@pytest.mark.parametrize(
    ("scheme", "in_force"), [("min_max", 0.0), ("max_min", 1.0), ("mean", 0.5), ("sampling", 0.5)]
)
def test_in_force_is_what_the_loss_picks_of_a_question(scheme: str, in_force: float) -> None:
    """Two negatives, one below the margin and one above: eq. 7 picks the highest."""
    texts = ("it swims", "music nails music nails music nails")
    negatives = tuple(rationale(text, answer="fruit") for text in texts)
    example, asked = replace(lessons()[0], negatives=negatives), student()
    targets = [Target(text) for text in texts]
    ce = asked.mean_cross_entropy([f"explain: {example.text}"], [0, 0], targets)
    given = make_spec(source="teacher_minority")
    loss = LossSpec.model_validate({"scheme": scheme, "delta": float(ce.mean())})
    made = make_schedule(
        "dss+positives+negatives", given.model_copy(update={"loss": loss}), n_examples=1, seed=0
    )
    first = next(
        record
        for record in Trainer(asked, [example], made, validate).run()
        if isinstance(record, IterationFinished)
    )
    assert first.negative_metrics["in_force_share"] == in_force


def test_only_the_questions_of_an_iteration_are_sampled_for() -> None:
    sampler = ScriptedSampler({})
    train(sampler, make_spec())
    assert {n for _, _, n in sampler.asked} == {4}  # one step of four questions


def test_the_temperature_outlives_a_restart() -> None:
    made = make_schedule("dss+positives+negatives", margin_between(1e-9), n_examples=8, seed=0)
    first = Trainer(student(), lessons(), made, validate, negative_sampler=ScriptedSampler({}))
    for record in first.run():
        if isinstance(record, IterationFinished):
            break
    sampler = ScriptedSampler({})
    second = Trainer(student(), lessons(), made, validate, negative_sampler=sampler)
    restore_state(second, capture_state(first))
    next(r for r in second.run() if isinstance(r, IterationFinished))
    assert [t for t, _, _ in sampler.asked] == [0.5]
