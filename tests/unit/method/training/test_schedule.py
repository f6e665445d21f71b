"""Learning rate, length of iterations, and what stops a training that is lost."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from qcrd.errors import Diverged, Invalid
from qcrd.method.training import divergence
from qcrd.method.training.checkpoint import capture_state, restore_state
from qcrd.method.training.optimizer_step import OptimizerStep
from qcrd.method.training.progress import IterationFinished, StepFinished
from qcrd.method.training.schedule import (
    compute_untrained_share,
    get_iteration_steps,
    make_schedule,
)
from qcrd.method.training.trainer import Trainer
from qcrd.records.base import parse_record
from qcrd.records.specs.spec import MethodSpec
from tests.unit.method.training.test_trainer import judge, lessons, spec, student, validate


def test_the_rate_rises_to_its_value_and_falls_from_there_without_a_kink() -> None:
    given = spec(warmup_steps=4, iterations=5, batch_size=4, learning_rate=0.4)
    schedule = make_schedule("finetune", given, n_examples=8, seed=0)
    rates = [schedule.learning_rate(step, 0.0) for step in range(10)]
    assert rates[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    falls = [a - b for a, b in itertools.pairwise(rates[4:])]
    assert falls == pytest.approx([0.4 / 6] * 5)


def test_the_rate_by_compute_is_the_rate_by_steps_where_steps_cost_the_same() -> None:
    given = spec(warmup_steps=4, iterations=5, batch_size=4, learning_rate=0.4)
    by_steps = make_schedule("finetune", given, n_examples=8, seed=0)
    by_compute = make_schedule("finetune", given, n_examples=8, seed=0, flops=10 * 7.0)
    for step in range(10):
        expected = by_steps.learning_rate(step, 0.0)
        assert by_compute.learning_rate(step, 7.0 * step) == pytest.approx(expected)


@pytest.mark.parametrize("questions", [156, 800, 9741])
def test_at_most_a_quarter_learns_from_the_untrained_student(questions: int) -> None:
    given = MethodSpec()
    share = compute_untrained_share("qcrd", given, questions)
    assert share is not None
    assert 0.15 < share <= 0.25
    longer = MethodSpec.model_validate({"hyperparameters": {"iteration_steps": 50}})
    share = compute_untrained_share("qcrd", longer, 800)
    assert share == pytest.approx(1 - (1 - 6 / 10) ** 2, rel=0.01)
    assert compute_untrained_share("dss", given, questions) is None
    assert get_iteration_steps("dss", given, questions) == math.ceil(questions / 16)
    # However it is cut, the training is as long.
    assert make_schedule("qcrd", given, n_examples=questions, seed=0).steps == 10 * math.ceil(
        questions / 16
    )


@pytest.mark.parametrize(
    ("source", "checkpoint", "iterations", "share"),
    [
        (("fixed",), None, 10, 1.0),
        (("teacher_minority", "fixed"), None, 10, 1.0),
        (("fixed",), "model-1", 10, None),
        (("teacher_minority",), None, 10, None),
        (("student_lag",), None, 3, 1.0),
    ],
)
def test_the_untrained_student_may_be_all_that_is_learned_from(
    source: tuple[str, ...], checkpoint: str | None, iterations: int, share: float | None
) -> None:
    """Three iterations never look back at the first of them over a lag of 5."""
    given = MethodSpec.model_validate(
        {
            "negatives": {"source": source, "checkpoint": checkpoint},
            "hyperparameters": {"iterations": iterations, "iteration_steps": 5},
        }
    )
    assert compute_untrained_share("qcrd", given, 80) == share


def test_short_iterations_are_validated_once_a_pass() -> None:
    given = spec(iterations=4, iteration_steps=None)
    made = make_schedule("qcrd", given, n_examples=8, seed=0)
    assert made.iteration_steps == 1
    records = list(Trainer(student(), lessons(), made, validate, judge()).run())
    ends = [r for r in records if isinstance(r, IterationFinished)]
    assert len(ends) == 8
    assert sum(r.validation_accuracy is not None for r in ends) == 4
    assert ends[-1].validation_accuracy is not None


def test_weights_are_kept_only_as_long_as_they_are_sampled_from() -> None:
    minority = spec().model_copy(
        update={"negatives": spec().negatives.model_copy(update={"source": ("teacher_minority",)})}
    )
    made = make_schedule("dss+positives+negatives", minority, n_examples=8, seed=0)
    trainer = Trainer(student(), lessons(), made, validate)
    list(trainer.run())
    assert len(trainer.weight_history.by_iteration) == 1


def test_norms_and_biases_do_not_decay() -> None:
    made = make_schedule("finetune", spec(weight_decay=0.1), n_examples=8, seed=0)
    step = OptimizerStep(student("llama"), made)
    decays = {id(p): g["weight_decay"] for g in step.optimizer.param_groups for p in g["params"]}
    for name, parameter in step.student.model.named_parameters():
        assert decays[id(parameter)] == (0.0 if "norm" in name else 0.1), name


def test_moments_go_back_to_their_parameters_however_those_are_grouped() -> None:
    plain = make_schedule("finetune", spec(), n_examples=8, seed=0)
    first = Trainer(student("llama"), lessons(), plain, validate)
    list(first.run())
    moments = capture_state(first).tensors["moments"]
    decaying = make_schedule("finetune", spec(weight_decay=0.1), n_examples=8, seed=0)
    second = OptimizerStep(student("llama"), decaying)
    second.load_moments(moments)
    again = second.get_moments()
    assert again.keys() == moments.keys()
    assert all(torch.equal(again[key], moments[key]) for key in moments)


# --- what stops -----------------------------------------------------------------------------------


WORSE_THAN_GUESSING = math.log(100) + 0.1


@pytest.mark.parametrize(
    ("method", "losses", "term"),
    [
        ("qcrd", {"loss": 9.0, "label": 1.0, "positive": WORSE_THAN_GUESSING}, "positive"),
        ("finetune", {"loss": 9.0, "label": WORSE_THAN_GUESSING}, "label"),
        ("single_task", {"loss": WORSE_THAN_GUESSING}, "loss"),
    ],
)
def test_a_student_that_got_worse_than_guessing_is_told_by_the_term(
    method: str, losses: dict[str, float], term: str
) -> None:
    """Whatever the length of its iterations, here 2; a new decoder begins there, so that the first
    ten steps of twenty are not held against it."""
    schedule = make_schedule(method, spec(iterations=20), n_examples=8, seed=0)
    check = divergence.CollapseCheck(vocabulary=100)
    for step in range(19):
        check.add(schedule, step, losses)
    with pytest.raises(Diverged, match=rf"step 20 of {method}: the mean of `{term}`.*4\.71 nats"):
        check.add(schedule, 19, losses)


def test_a_warm_up_and_steps_that_are_validated_together_are_not_held_against_a_student() -> None:
    schedule = make_schedule("dss", spec(warmup_steps=30), n_examples=8, seed=0)
    check = divergence.CollapseCheck(vocabulary=100)
    for step in range(39):
        check.add(schedule, step, {"label": WORSE_THAN_GUESSING})
    with pytest.raises(Diverged, match="step 40 of dss"):
        check.add(schedule, 39, {"label": WORSE_THAN_GUESSING})


def test_the_last_losses_outlive_a_restart() -> None:
    schedule = make_schedule("qcrd", spec(), n_examples=8, seed=0)
    first = Trainer(student(), lessons(), schedule, validate, judge())
    *_, third = itertools.islice(
        (record for record in first.run() if isinstance(record, StepFinished)), 3
    )
    second = Trainer(student(), lessons(), schedule, validate, judge())
    restore_state(second, capture_state(first))
    assert second.collapse_check.recent == first.collapse_check.recent
    assert second.collapse_check.recent["label"][2:] == [third.losses["label"]]


def test_the_part_that_is_not_finite_is_named_before_the_total() -> None:
    schedule = make_schedule("qcrd", spec(), n_examples=8, seed=0)
    losses = {"loss": math.nan, "label": 1.0, "positive": math.nan, "negative": 0.0}
    with pytest.raises(Diverged, match="the term `positive`"):
        divergence.check_losses(schedule, 0, losses)
    with pytest.raises(Diverged, match="the term `loss`"):
        divergence.check_losses(schedule, 0, {"loss": math.nan})


def test_a_rate_that_is_far_too_high_ends_as_diverged() -> None:
    given = spec(learning_rate=1.0, iterations=20, iteration_steps=10)
    made = make_schedule("dss", given, n_examples=8, seed=0)
    with pytest.raises(Diverged, match="learning_rate"):
        list(Trainer(student("llama"), lessons(), made, validate).run())


def test_the_judge_is_named_where_it_is_what_diverged() -> None:
    with pytest.raises(Diverged, match=r"quality judge.*discriminator\.learning_rate"):
        divergence.check_scores({"a": 0.5, "b": float("nan")})


# --- the paper's setting --------------------------------------------------------------------------


def test_the_papers_setting_in_one_line() -> None:
    given = parse_record(MethodSpec, {"preset": "paper", "negatives": {"lag": 5}}, root="method")
    assert given.loss.contrast_normaliser == "all"
    assert (given.loss.delta, given.loss.beta, given.negatives.temperature) == (3.0, 0.2, 1.5)
    assert (given.negatives.filter, given.negatives.top_p, given.negatives.lag) == ("none", 1.0, 5)


@pytest.mark.parametrize(
    ("section", "field", "other"),
    [
        ("rationales", "n", 1),
        ("rationales", "temperature", 0),
        ("rationales", "top_p", 0.9),
        ("negatives", "temperature", "auto"),
        ("discriminator", "pretrain_steps", 0),
    ],
)
def test_a_field_that_contradicts_the_preset_is_refused(
    section: str, field: str, other: float | str
) -> None:
    with pytest.raises(Invalid, match=rf"sets `{section}\.{field}` to ") as refused:
        MethodSpec.model_validate({"preset": "paper", section: {field: other}})
    assert refused.value.param == f"{section}.{field}"
    same = MethodSpec.model_validate({"preset": "paper"}).model_dump()[section][field]
    MethodSpec.model_validate({"preset": "paper", section: {field: same}})
