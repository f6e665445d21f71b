"""What stands beside eq. 7: other losses on the same pairs, and controls of the judge's scores."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from qcrd.method import losses
from qcrd.method.judge.controls import score_by_answer, shuffle_scores
from qcrd.method.judge.training_pairs import QuestionRationale, TrainingPair
from qcrd.method.training.checkpoint import capture_state, copy_moments, restore_state
from qcrd.method.training.objectives import get_objective
from qcrd.method.training.progress import IterationFinished, StepFinished
from qcrd.method.training.schedule import make_schedule
from qcrd.method.training.scoring import score_texts
from qcrd.method.training.step_loss import StepModule
from qcrd.method.training.trainer import Trainer
from qcrd.records.job import JudgeHistograms
from qcrd.records.specs.spec import MethodSpec
from qcrd.records.specs.training_spec import LossSpec
from tests.unit.method.student.test_generation import token_losses
from tests.unit.method.training.test_trainer import lessons, spec, student, validate

# --- as functions ---------------------------------------------------------------------------------


def test_unlikelihood_by_hand() -> None:
    """Of p = .25 it is -log .75; of a token that is certain it is large and finite."""
    logits = torch.tensor([[math.log(0.25), math.log(0.75)], [40.0, -40.0], [-200.0, 200.0]])
    found = losses.token_unlikelihood(logits, torch.tensor([0, 0, 0]))
    assert found[0] == pytest.approx(-math.log(0.75), rel=1e-6)
    assert 60 < found[1] < math.inf
    assert found[2] == 0.0


def test_unlikelihood_pushes_a_likely_token_down_and_stays_finite() -> None:
    logits = torch.tensor([[3.0, 0.0], [60.0, 0.0]], requires_grad=True)
    losses.token_unlikelihood(logits, torch.tensor([0, 0])).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, 0] > 0 > logits.grad[0, 1]


def test_preference_by_hand() -> None:
    """-log sigmoid(.1 · ((-4 + 5) - (-6 + 3))) = -log sigmoid(.4), and of equal margins log 2."""
    given = [torch.tensor([value]) for value in (-4.0, -6.0, -5.0, -3.0)]
    found = losses.preference_loss(*given, 0.1)
    assert found.item() == pytest.approx(math.log(1 + math.exp(-0.4)))
    same = [torch.tensor([value]) for value in (-4.0, -6.0, -4.0, -6.0)]
    assert losses.preference_loss(*same, 0.1).item() == pytest.approx(math.log(2))


# --- in a step ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_a_step_with_unlikelihood_by_plain_readings(kind: str) -> None:
    """Judge .2: the term is .8 times the mean over the negative's tokens of -log(1 - p)."""
    made, item = student(kind), lessons()[0]
    made.model.eval()
    objective = get_objective("qcrd", "label")
    step = StepModule(made, objective, LossSpec(contrast="unlikelihood", delta=1e-9))
    scores = {item.positives[0].id: 1.0, item.positives[1].id: 1.0, item.negatives[0].id: 0.2}
    found = step([item], scores, 0).losses["negative"]
    ids = made.tokenize_target(next(iter(step._index_targets([(0, item.negatives[0])])[1])))
    ce = token_losses(made, f"explain: {item.text}", ids)
    ul = [-math.log(1 - math.exp(-value)) for value in ce]
    assert found == pytest.approx(-0.8 * sum(ul) / len(ul), rel=1e-3)


@pytest.mark.parametrize("answers", ["label", "reasoned"])
@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_a_preference_over_oneself_is_log_2_and_its_gradient_parts_the_pair(
    kind: str, answers: str
) -> None:
    made = student(kind, max_answer_tokens=4)
    made.model.eval()
    objective = get_objective("dss+positives+negatives", answers)
    batch = lessons()[:3]
    step = StepModule(made, objective, LossSpec(contrast="dpo", alpha=(0.0, 1.0, 0.0), beta=1.0))
    step.reference = score_texts(made, batch, objective)
    terms = step(batch, {}, 0)
    assert terms.losses["negative"] == pytest.approx(-math.log(2), rel=1e-4)
    assert terms.negative is not None
    terms.negative.backward()  # as it enters the loss
    with torch.no_grad():
        for parameter in made.model.parameters():
            if parameter.grad is not None:
                parameter -= 0.05 * parameter.grad
    after = step(batch, {}, 0).losses["negative"]
    assert after > terms.losses["negative"]  # -loss: the preference grew


def test_the_reference_is_the_whole_rationale_s_log_probability() -> None:
    made, item = student("llama"), lessons()[0]
    found = score_texts(made, [item], get_objective("qcrd", "label"))
    assert set(found) == {r.id for r in (*item.positives, *item.negatives)}
    made.model.eval()
    for rationale in (*item.positives, *item.negatives):
        ids = made.tokenizer(f" {rationale.text}", add_special_tokens=False).input_ids
        ce = token_losses(made, f"explain: {item.text}", [*ids, *made.end_token_ids])
        assert found[rationale.id] == pytest.approx(-sum(ce), rel=1e-4)


# --- in a training --------------------------------------------------------------------------------


def make_spec(contrast: str, control: str = "none") -> MethodSpec:
    given = spec()
    return given.model_copy(
        update={
            "loss": LossSpec.model_validate({"contrast": contrast, "delta": 20.0}),
            "discriminator": given.discriminator.model_copy(update={"control": control}),
        }
    )


def run(made: Trainer) -> tuple[list[StepFinished], list[IterationFinished]]:
    records = list(made.run())
    steps = [r for r in records if isinstance(r, StepFinished)]
    return steps, [r for r in records if isinstance(r, IterationFinished)]


@pytest.mark.parametrize("contrast", ["unlikelihood", "dpo"])
def test_a_training_with_it_is_resumed_between_any_two_steps(contrast: str) -> None:
    """Also in the middle of an iteration, whose reference was computed at its beginning."""
    schedule = make_schedule("dss+positives+negatives", make_spec(contrast), n_examples=8, seed=0)
    whole = Trainer(student(), lessons(), schedule, validate)
    steps, ends = run(whole)
    if contrast == "dpo":
        # log 2 for each of the four questions that has a sample.
        with_sample = steps[0].losses["negative"] / -math.log(2) * 4
        assert with_sample == pytest.approx(round(with_sample), abs=0.01)
        assert with_sample > 0.5
    assert all(end.negative_metrics["in_force_share"] == 1.0 for end in ends)
    first = Trainer(student(), lessons(), schedule, validate)
    for stop in (record.step for record in first.run() if isinstance(record, StepFinished)):
        second = Trainer(student(seed=5), lessons(), schedule, validate)
        restore_state(second, copy_moments(capture_state(first)))
        run(second)
        for (name, a), b in zip(
            whole.student.model.named_parameters(), second.student.model.parameters(), strict=True
        ):
            assert torch.equal(a, b), (stop, name)
    assert stop == len(steps)
    assert whole.flops == second.flops


def test_the_reference_pass_is_paid_and_leaves_the_student_as_it_was() -> None:
    schedule = make_schedule("dss+positives+negatives", make_spec("dpo"), n_examples=8, seed=0)
    made = Trainer(student(), lessons(), schedule, validate)
    list(made.run())
    before = {name: p.detach().clone() for name, p in made.student.model.named_parameters()}
    flops = made.flops
    made.score_reference(lessons())
    assert all(torch.equal(p, before[n]) for n, p in made.student.model.named_parameters())
    assert made.flops > flops


# --- controls of the judge ------------------------------------------------------------------------


class CountingJudge:
    """Scores by the length of the text, and counts what it was asked."""

    flops = 0.0
    histograms: JudgeHistograms | None = None
    oldest_version = 0

    def __init__(self) -> None:
        self.asked = 0

    def pretrain(self, training_pairs: Sequence[TrainingPair]) -> dict[str, float]:
        self.asked += 1
        return {}

    def update(
        self, iteration: int, training_pairs: Sequence[TrainingPair], *, weight: float
    ) -> dict[str, float]:
        self.asked += 1
        return {}

    def score(self, pairs: Sequence[QuestionRationale]) -> list[float]:
        self.asked += 1
        return [1 / (1 + len(text)) for _, text in pairs]


def scores_of(control: str) -> tuple[dict[str, float], CountingJudge]:
    schedule = make_schedule("qcrd", make_spec("margin", control), n_examples=8, seed=0)
    judge = CountingJudge()
    made = Trainer(student(), lessons(), schedule, validate, judge)
    for record in made.run():
        if isinstance(record, StepFinished):
            break
    assert made.iteration_data is not None
    return made.iteration_data.scores, judge


@pytest.mark.parametrize("control", ["constant", "gold"])
def test_a_control_that_reads_no_score_asks_no_judge(control: str) -> None:
    scores, judge = scores_of(control)
    assert judge.asked == 0
    assert set(scores.values()) == ({0.5} if control == "constant" else {0.0, 1.0})


def test_shuffled_scores_are_the_judge_s_own_of_other_rationales() -> None:
    own, judge = scores_of("none")
    shuffled, _ = scores_of("shuffled")
    assert judge.asked > 0
    assert sorted(own.values()) == sorted(shuffled.values())
    assert own != shuffled
    assert shuffled == scores_of("shuffled")[0]


def test_gold_scores_go_by_the_answer_and_else_by_the_side() -> None:
    answers = {"p": ("a", "a"), "q": ("b", "a"), "r": (None, "a"), "s": (None, "a")}
    assert score_by_answer(answers, {"r", "q"}.__contains__) == {"p": 1, "q": 0, "r": 1, "s": 0}
    assert shuffle_scores({"a": 0.1}, salt="x") == {"a": 0.1}
