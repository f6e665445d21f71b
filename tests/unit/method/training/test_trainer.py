"""Students, judge and the loop on random weights: sharing is exact, learning works."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch

from qcrd.errors import Diverged
from qcrd.method.batching import (
    CALL_POSITIONS,
    group_by_length,
    iterate_batches,
    split_evenly,
)
from qcrd.method.judge.health import auc
from qcrd.method.judge.model import Judge, LocalJudge, train_judge
from qcrd.method.judge.training_pairs import TrainingPair, balance_negatives, split_holdout
from qcrd.method.losses import weight_highest, weight_lowest
from qcrd.method.student.base import Student
from qcrd.method.student.causal import CausalStudent
from qcrd.method.student.seq2seq import Seq2SeqStudent
from qcrd.method.student.targets import Target
from qcrd.method.training.candidates import Candidates
from qcrd.method.training.checkpoint import capture_state, copy_moments, restore_state
from qcrd.method.training.objectives import OBJECTIVES
from qcrd.method.training.optimizer_step import OptimizerStep
from qcrd.method.training.progress import IterationFinished, StepFinished
from qcrd.method.training.schedule import make_schedule
from qcrd.method.training.step_loss import StepModule
from qcrd.method.training.trainer import Trainer
from qcrd.method.training.training_example import TrainingExample
from qcrd.method.training.weight_history import WeightHistory, copy_trainable_weights
from qcrd.records.rationales import Rationale
from qcrd.records.specs.spec import MethodSpec
from qcrd.records.specs.training_spec import Hyperparameters, JudgeSpec, LossSpec, NegativeSpec
from tests import tiny

PAIRS = [
    ("trout", "animal", "it swims in water"),
    ("apple", "fruit", "it grows on trees"),
    ("hammer", "tool", "it hits nails"),
    ("violin", "instrument", "it plays music"),
    ("a trout", "animal", "so it swims"),
    ("an apple", "fruit", "so it grows"),
    ("a hammer", "tool", "so it hits nails"),
    ("the violin", "instrument", "so it plays"),
]


def lessons() -> list[TrainingExample]:
    made = []
    for index, (thing, label, reason) in enumerate(PAIRS):
        key = str(index)
        positives = tuple(
            Rationale(id=f"{key}/{i}", question_id=key, text=text, answer=label)
            for i, text in enumerate((reason, f"the {thing} {reason}"))
        )
        wrong = Rationale(id=f"{key}/n", question_id=key, text="it is a thing", answer="fruit")
        made.append(
            TrainingExample(
                key, f"what kind of thing is {thing} ?", label, label, positives, (wrong,)
            )
        )
    return made


def student(kind: str = "t5", seed: int = 0, **more: int) -> Student:
    torch.manual_seed(seed)
    limits = {"max_question_tokens": 32, "max_target_tokens": 16, **more}
    if kind == "t5":
        return Seq2SeqStudent(tiny.t5(), tiny.tokenizer(), **limits)
    return CausalStudent(tiny.llama(), tiny.tokenizer(), **limits)


def judge(seed: int = 0) -> LocalJudge:
    torch.manual_seed(seed)
    spec = JudgeSpec(pretrain_steps=3, update_steps=2, batch_size=4, hidden=16, max_tokens=32)
    return LocalJudge(
        Judge(tiny.bert(), tiny.tokenizer(), hidden=16, max_tokens=32), spec, seed=seed
    )


def spec(**hyper: object) -> MethodSpec:
    settings = {
        "batch_size": 4, "iterations": 3, "iteration_steps": 2, "learning_rate": 1e-3,
        "max_rationale_tokens": 8,
    }  # fmt: skip
    return MethodSpec(
        hyperparameters=Hyperparameters.model_validate({**settings, **hyper}),
        negatives=NegativeSpec(lag=1),
    )


def validate(_: Student) -> tuple[float, float]:
    return (0.5, 0.0)


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_a_shared_reading_gives_the_loss_and_gradient_of_separate_ones(kind: str) -> None:
    model = student(kind)
    prompts = ["explain: what kind of thing is a trout ?", "explain: apple ?"]
    texts, owner = ["it swims", "it swims in water", "it grows on trees"], [0, 0, 1]
    targets = [Target(text) for text in texts]
    shared, _ = model.cross_entropy(prompts, owner, targets)
    shared.sum().backward()
    weights = [p for p in model.model.parameters() if p.grad is not None]
    gradients = [p.grad.clone() for p in weights]
    model.model.zero_grad()
    alone = []
    for row, target in zip(owner, targets, strict=True):
        total, _ = model.cross_entropy([prompts[row]], [0], [target])
        total.sum().backward()
        alone.append(total.item())
    assert shared.tolist() == pytest.approx(alone, rel=1e-4)
    for weight, gradient in zip(weights, gradients, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", ["qcrd", "dss", "single_task", "finetune"])
def test_a_step_in_parts_has_the_loss_and_gradient_of_the_whole(method: str) -> None:
    """Also with more parts than questions. The tiny student has no dropout."""
    batch = lessons()[:3]
    scores = {r.id: 0.7 for lesson in batch for r in (*lesson.positives, *lesson.negatives)}
    schedule = make_schedule(method, spec(), n_examples=8, seed=0)
    taken: dict[int, tuple[dict[str, float], list[torch.Tensor]]] = {}
    for parts in (1, 2, 4):
        step = OptimizerStep(student(), replace(schedule, micro_batches=parts))
        losses = step.backward(batch, scores, seed=5)
        taken[parts] = losses, [p.grad for p in step.parameters() if p.grad is not None]
    whole_losses, whole = taken[1]
    for losses, gradients in (taken[2], taken[4]):
        assert losses == pytest.approx(whole_losses, rel=1e-4)
        for gradient, expected in zip(gradients, whole, strict=True):
            torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_scoring_in_length_groups_equals_one_batch(kind: str) -> None:
    texts, owner = ["it", "it swims in water on trees", "it grows"], [0, 1, 1]

    def scored(model: Student) -> torch.Tensor:
        targets = [Target(text) for text in texts]
        return model.mean_cross_entropy(["explain: trout ?"] * 2, owner, targets)

    grouped, whole = student(kind, max_batch_target_tokens=4), student(kind)
    torch.testing.assert_close(scored(grouped), scored(whole), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_sampling_is_a_function_of_the_seed(kind: str) -> None:
    model = student(kind)
    prompts = ["explain: trout ?", "explain: what kind of thing is a hammer ?"]
    said = [model.generate(prompts, max_new_tokens=6, temperature=1.5, seed=s) for s in (1, 1, 2)]
    assert said[0] == said[1] != said[2]


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_a_student_overfits_eight_examples(kind: str) -> None:
    """Label loss under 0.05 and every label right: the training step learns."""
    model = student(kind)
    made = make_schedule(
        "finetune", spec(batch_size=8, iterations=120, learning_rate=5e-3), n_examples=8, seed=0
    )
    records = list(Trainer(model, lessons(), made, validate).run())
    steps = [record for record in records if isinstance(record, StepFinished)]
    assert steps[-1].losses["label"] < 0.05
    answers = model.generate([f"predict: {item.text}" for item in lessons()], max_new_tokens=4)
    assert answers == [item.label for item in lessons()]


def test_min_max_picks_by_value_and_drops_negatives_past_the_margin() -> None:
    """The positive with the lower CE is chosen; no negative is with delta under its CE."""
    model = student()
    batch = lessons()[:2]
    prompts = [item.text for item in batch]
    slate = Candidates([item.positives for item in batch], {}, default_score=1.0)
    targets = [Target(r.text) for item in batch for r in item.positives]
    values = model.mean_cross_entropy(prompts, [0, 0, 1, 1], targets)
    picks = slate.select(values, weight_lowest, 0, quality=lambda s: s)
    low = values.view(2, 2).argmin(1).tolist()
    assert [r.id[-1] for _, r in picks.selected] == [str(i) for i in low]
    wrong = Candidates([item.negatives for item in batch], {}, default_score=0.0)
    targets = [Target(item.negatives[0].text) for item in batch]
    values = model.mean_cross_entropy(prompts, [0, 1], targets)
    far = wrong.select(
        values,
        weight_highest,
        0,
        quality=lambda s: 1 - s,
        margins=torch.full((2,), 0.1),
    )
    assert far.selected == []


@torch.no_grad()
def exact(model: Student, prompt: str, texts: list[str]) -> torch.Tensor:
    targets = [Target(text) for text in texts]
    total, count = model.cross_entropy([prompt], [0] * len(texts), targets)
    return total / count


def test_step_terms_by_hand() -> None:
    """Eq. 8 put together from the parts' own cross entropies."""
    model = student()
    item = lessons()[0]
    scores = {item.positives[0].id: 0.9, item.positives[1].id: 0.7, item.negatives[0].id: 0.2}
    step = StepModule(model, OBJECTIVES["qcrd"], LossSpec(delta=9.0))
    terms = step([item], scores, 0)
    ces = exact(model, "explain: " + item.text, [r.text for r in item.positives])
    negative = exact(model, "explain: " + item.text, [item.negatives[0].text]).item()
    label = exact(model, "predict: " + item.text, [item.label])
    low = int(ces.argmin())
    expected = 0.5 * label.item() + 0.5 * (
        (0.9, 0.7)[low] * ces[low].item() - 0.2 * (1 - 0.2) * min(negative - 9.0, 0)
    )
    assert terms.total.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("method", list(OBJECTIVES))
def test_every_method_trains_and_sees_the_same_order(method: str) -> None:
    made = make_schedule(method, spec(), n_examples=8, seed=3)
    records = list(Trainer(student(), lessons(), made, validate, judge()).run())
    assert sum(isinstance(r, StepFinished) for r in records) == 6
    assert sum(isinstance(r, IterationFinished) for r in records) == 3


def test_equal_compute_stops_when_the_work_is_spent() -> None:
    dss = Trainer(
        student(), lessons(), make_schedule("dss", spec(), n_examples=8, seed=0), validate
    )
    list(dss.run())
    made = make_schedule("finetune_equal_compute", spec(), n_examples=8, seed=0, flops=dss.flops)
    finetune = Trainer(student(), lessons(), made, validate)
    steps = [r for r in finetune.run() if isinstance(r, StepFinished)]
    assert len(steps) > 6
    assert dss.flops <= finetune.flops < dss.flops * (1 + 2 / len(steps))


@pytest.mark.parametrize("method", ["qcrd", "dss", "finetune_equal_compute"])
def test_a_trainer_restored_between_any_two_steps_ends_with_the_same_weights(method: str) -> None:
    """Captured after each record in turn, and restored into a fresh trainer: a checkpoint of
    a training that goes on."""
    flops = 3e7 if method == "finetune_equal_compute" else None
    made = make_schedule(method, spec(iterations=2), n_examples=8, seed=1, flops=flops)
    whole = Trainer(student(), lessons(), made, validate, judge())
    records = list(whole.run())
    own = judge()
    first = Trainer(student(), lessons(), made, validate, own)
    for stop, _ in enumerate(first.run()):
        second = Trainer(student(seed=9), lessons(), made, validate, copy.deepcopy(own))
        restore_state(second, copy_moments(capture_state(first)))
        rest = list(second.run())
        assert rest[-1:] == records[-1:] if rest else stop == len(records) - 1
        for name, weight in copy_trainable_weights(whole.student).items():
            assert torch.equal(weight, copy_trainable_weights(second.student)[name]), (stop, name)
        assert second.flops == whole.flops
        assert second.student.tokens == whole.student.tokens > 0
    assert stop == len(records) - 1


def test_a_state_of_before_tokens_were_counted_is_resumed_and_never_knows_them() -> None:
    made = make_schedule("dss", spec(iterations=1), n_examples=8, seed=1)
    first = Trainer(student(), lessons(), made, validate)
    list(itertools.islice(first.run(), 1))
    state = capture_state(first)
    old = {k: v for k, v in state.numbers.items() if k != "student_tokens"}
    second = Trainer(student(seed=9), lessons(), made, validate)
    restore_state(second, replace(state, numbers=old))
    assert list(second.run())
    assert capture_state(second).numbers["student_tokens"] is None


def test_measuring_is_in_neither_flops_nor_tokens() -> None:
    def measure(tested: Student) -> tuple[float, float]:
        tested.generate(["predict: trout ?"], max_new_tokens=4)
        return (0.5, 0.0)

    made = make_schedule("dss", spec(), n_examples=8, seed=0)
    measured, unmeasured = (
        Trainer(student(), lessons(), made, validation) for validation in (measure, validate)
    )
    for trainer in (measured, unmeasured):
        list(trainer.run())
    assert measured.student.tokens == unmeasured.student.tokens
    assert measured.flops == unmeasured.flops


def test_a_loss_that_is_not_finite_is_a_failure_with_advice() -> None:
    model = student()
    with torch.no_grad():
        next(iter(model.model.parameters())).fill_(float("nan"))
    made = make_schedule("finetune", spec(), n_examples=8, seed=0)
    with pytest.raises(Diverged, match=r"step 1 of finetune.*learning_rate"):
        list(Trainer(model, lessons(), made, validate).run())


def test_the_ring_gives_the_checkpoint_of_lag_iterations_ago() -> None:
    ring = WeightHistory(2)
    for iteration in range(6):
        ring.push(iteration, {"w": torch.tensor(iteration)})
        assert int(ring.get_lagged(iteration)["w"]) == max(0, iteration - 2)
    assert len(ring.by_iteration) == 3


def test_batches_cover_a_pass_and_depend_on_seed_and_step_alone() -> None:
    def batches(seed: int, first_step: int, steps: int = 6) -> list[list[int]]:
        return list(
            iterate_batches(range(10), batch_size=4, first_step=first_step, steps=steps, seed=seed)
        )

    first = batches(0, 0)
    for one_pass in (first[:3], first[3:]):
        assert sorted(i for batch in one_pass for i in batch) == list(range(10))
    assert first == batches(0, 0) != batches(1, 0)
    assert [len(batch) for batch in first] == [4, 4, 2, 4, 4, 2]
    # However long iterations are, they go on in the same shuffle.
    assert [batches(0, step, 1)[0] for step in range(6)] == first


def test_length_groups_hold_every_row_once_within_the_bound() -> None:
    lengths = [3, 9, 1, 4, 4, 30]
    groups = group_by_length(lengths, max_tokens=12)
    assert sorted(i for group in groups for i in group) == list(range(6))
    assert all(len(g) == 1 or len(g) * max(lengths[i] for i in g) <= 12 for g in groups)
    assert group_by_length(lengths, max_tokens=12, similar=False) == [[2, 0, 3], [4], [1], [5]]


@pytest.mark.parametrize(
    ("n", "multiple", "sizes"),
    [
        (0, 2, []),
        (1, 2, [1]),
        (15, 2, [15]),
        (16, 2, [8, 8]),
        (128, 2, [64, 64]),
        (312, 2, [52] * 6),
        (312, 1, [62, 62, 63, 62, 63]),
    ],
)
def test_runs_are_even_and_of_few_items_one(n: int, multiple: int, sizes: list[int]) -> None:
    runs = split_evenly(range(n), limit=64, multiple=multiple)
    assert [len(run) for run in runs] == sizes
    assert [i for run in runs for i in run] == list(range(n))


@pytest.mark.parametrize("max_tokens", [1, 90, 250, 8192])
def test_no_other_groups_of_neighbours_cost_less(max_tokens: int) -> None:
    lengths = [29, 31, 33, 41, 42, 43, 60, 90]

    def cost(groups: Sequence[Sequence[int]]) -> int:
        return sum(max(group) * len(group) + CALL_POSITIONS for group in groups)

    def part(rows: Sequence[int]) -> Iterator[list[Sequence[int]]]:
        if not rows:
            yield []
        for n in range(1, len(rows) + 1):
            if n == 1 or n * rows[n - 1] <= max_tokens:
                yield from ([rows[:n], *others] for others in part(rows[n:]))

    found = group_by_length(lengths[::-1], max_tokens=max_tokens)
    as_lengths = [[lengths[::-1][i] for i in group] for group in found]
    assert cost(as_lengths) == min(cost(groups) for groups in part(lengths))


# --- the judge ------------------------------------------------------------------------------------


def contrasts() -> list[TrainingPair]:
    return [
        TrainingPair(item.text, (item.positives[0].text,), ("it is a thing",)) for item in lessons()
    ]


@pytest.mark.parametrize("loss", ["paper", "bce", "infonce"])
def test_the_judge_learns_to_tell_right_from_wrong(loss: str) -> None:
    local = judge()
    training = JudgeSpec(loss=loss, batch_size=8)  # type: ignore[arg-type]
    list(train_judge(local.model, contrasts(), training, steps=60, learning_rate=3e-3, seed=0))
    right = local.score([(c.question, c.positives[0]) for c in contrasts()])
    wrong = local.score([(c.question, c.negatives[0]) for c in contrasts()])
    assert auc(right, wrong) == 1.0
    assert all(0 < score < 1 for score in (*right, *wrong))


@pytest.mark.parametrize("bias", [50.0, -50.0])
@pytest.mark.parametrize("loss", ["paper", "bce", "infonce"])
def test_a_judge_that_is_sure_of_everything_still_trains(loss: str, bias: float) -> None:
    """All logits are near `bias`, where single precision has no score but 1 (and nearly 0)."""
    local = judge()
    with torch.no_grad():
        local.model.second.bias.fill_(bias)
    training = JudgeSpec(loss=loss, batch_size=8)  # type: ignore[arg-type]
    steps = list(
        train_judge(local.model, contrasts(), training, steps=9, learning_rate=3e-3, seed=0)
    )
    assert all(map(math.isfinite, steps))
    gradients = [p.grad for p in local.model.second.parameters() if p.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    if loss == "bce":  # the side that is wrong pulls with all its weight
        assert steps[-1] < steps[0]


def test_padding_takes_no_part_in_the_pooling() -> None:
    local = judge()
    pair = ("trout ?", "it swims")
    long = ("what kind of thing is a trout ?", "it swims in water on trees in water")
    assert local.score([pair, long])[0] == pytest.approx(local.score([pair])[0], abs=1e-6)


def test_real_negatives_first_corruption_only_fills_up() -> None:
    full = TrainingPair("q", ("a b c", "d e f"), ("x y", "z"))
    short = TrainingPair("r", ("a b c", "d e f"), ())
    same, filled = balance_negatives([full, short], seed=0)
    assert same == full
    assert len(filled.negatives) == 2
    assert not set(filled.negatives) & set(filled.positives)


def test_pretraining_says_how_many_questions_had_a_real_negative() -> None:
    """Corrupted texts are no such thing, held-out questions do not count, and an update and a judge
    that is not pretrained say nothing."""
    many = [TrainingPair(f"q{i}", ("it swims",), ("a thing",) if i % 2 else ()) for i in range(40)]
    train, _ = split_holdout(many)
    local = judge()
    health = local.pretrain(many)
    assert health["questions"] == len(train)
    assert health["questions_with_real_negatives"] == sum(bool(c.negatives) for c in train)
    none = local.pretrain([replace(c, negatives=()) for c in many])
    assert none["questions_with_real_negatives"] == 0
    assert "loss" in none
    assert "questions" not in local.update(0, many, weight=0.5)
    untrained = LocalJudge(local.model, JudgeSpec(pretrain_steps=0), seed=0)
    assert "questions" not in untrained.pretrain(many)


def test_held_back_is_decided_by_the_question_alone() -> None:
    many = [TrainingPair(f"q{i}", ("a",), ("b",)) for i in range(400)]
    trained, kept = split_holdout(many)
    assert 15 < len(kept) < 75
    assert {c.question for c in trained}.isdisjoint(c.question for c in kept)
    assert split_holdout(many[::-1])[1] == kept[::-1]


def test_an_update_is_a_function_of_weights_and_data() -> None:
    def after() -> Sequence[float]:
        local = judge()
        local.update(0, contrasts(), weight=0.5)
        return local.score([("trout ?", "it swims")])

    assert after() == after()
