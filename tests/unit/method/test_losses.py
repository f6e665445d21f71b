"""Every equation by hand, and the laws of the loss."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcrd.method import losses
from qcrd.method.student.packing import join_targets
from qcrd.records.specs.training_spec import ManyToOneScheme

CE = torch.tensor([[1.0, 2.0, 4.0], [3.0, 5.0, 0.0]])
MASK = torch.tensor([[True, True, True], [True, True, False]])
S = torch.tensor([[0.5, 0.8, 0.2], [0.9, 0.6, 0.0]])
LUCK = torch.tensor([[0.2, 0.1, 0.3], [0.5, 0.4, 0.9]])


def test_a_target_costs_the_sum_of_its_own_tokens() -> None:
    """Uniform over 4 tokens: each costs ln 4."""
    targets = join_targets([([1, 2], []), ([], [3]), ([0, 0], [1])])
    token_ce = losses.token_cross_entropy(torch.zeros(6, 4), targets.labels)
    assert token_ce.tolist() == pytest.approx([math.log(4)] * 6)
    sums = targets.sum_by_part(token_ce).sum(1)
    assert sums.tolist() == pytest.approx([n * math.log(4) for n in (2, 1, 3)])
    assert targets.counts.tolist() == [[2, 0], [0, 1], [2, 1]]


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        # rows' picks: min 1.0 and 3.0 (the masked 0.0 does not count)
        (losses.weight_lowest, [[1, 0, 0], [1, 0, 0]]),
        # max 4.0 and 5.0
        (losses.weight_highest, [[0, 0, 1], [0, 1, 0]]),
        # a third each; a half each
        (losses.weight_uniform, [[1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]]),
        # .5/.8/.2 over 1.5; .9/.6 over 1.5
        (losses.weight_by_score, [[1 / 3, 8 / 15, 2 / 15], [0.6, 0.4, 0]]),
    ],
)
def test_schemes_by_hand(scheme: losses.WeightFn, expected: list[list[float]]) -> None:
    weights = scheme(CE, MASK, S, LUCK)
    torch.testing.assert_close(weights.float(), torch.tensor(expected, dtype=torch.float))


def test_sampling_picks_one_real_rationale_and_reaches_all_of_them() -> None:
    seen = torch.zeros_like(CE)
    for seed in range(200):
        luck = torch.rand(CE.shape, generator=torch.Generator().manual_seed(seed))
        weights = losses.weight_sampled(CE, MASK, S, luck)
        assert weights.sum(1).tolist() == [1, 1]
        seen += weights
    assert (seen > 0).tolist() == MASK.tolist()


def test_eq6_positive_term() -> None:
    """MinMax: 0.5 * 1.0 + 0.9 * 3.0 = 3.2."""
    weights = losses.weight_lowest(CE, MASK, S, LUCK)
    assert losses.positive_term(CE, weights, S).item() == pytest.approx(3.2)


def test_eq7_negative_term() -> None:
    """MinMax picks 4.0 and 5.0, both past delta 3: 0. MaxMin picks 1.0 and 3.0:
    (1 - 0.5) * (1 - 3) + (1 - 0.9) * 0 = -1."""
    highest = losses.weight_highest(CE, MASK, S, LUCK)
    assert losses.negative_term(CE, highest, S, delta=3.0).item() == 0
    lowest = losses.weight_lowest(CE, MASK, S, LUCK)
    assert losses.negative_term(CE, lowest, S, delta=3.0).item() == pytest.approx(-1.0)


def test_eq3_negative_with_ce_1_adds_0_4() -> None:
    """CE 1 under delta 3 and judge score 0: min(1 - 3, 0) = -2, times -beta = -0.2: +0.4."""
    one = torch.ones(1, 1)
    negative = losses.negative_term(one, one, torch.zeros(1, 1), delta=3.0)
    total = losses.contrastive_loss(torch.tensor(0.0), negative, beta=0.2)
    assert total.item() == pytest.approx(0.4)


def test_scores_receive_no_gradient() -> None:
    s = S.clone().requires_grad_()
    ce = CE.clone().requires_grad_()
    weights = losses.weight_lowest(CE, MASK, S, LUCK)
    (losses.positive_term(ce, weights, s) - losses.negative_term(ce, weights, s, 3.0)).backward()
    assert s.grad is None
    assert ce.grad is not None


def test_eq2_by_hand() -> None:
    """One question, positives .9 and .8, negative .1:
    -ln((e^.9 + e^.8) / e^.1) = .1 - ln(e^.9 + e^.8) = -1.444397."""
    pos, neg = torch.tensor([[0.9, 0.8]]).logit(), torch.tensor([[0.1, 0.5]]).logit()
    pos_mask, neg_mask = torch.tensor([[True, True]]), torch.tensor([[True, False]])
    expected = 0.1 - math.log(math.exp(0.9) + math.exp(0.8))
    assert losses.paper_judge_loss(pos, pos_mask, neg, neg_mask).item() == pytest.approx(expected)
    # in the denominator too: ln(e^.9 + e^.8 + e^.1) - ln(e^.9 + e^.8)
    both = math.log(math.exp(0.9) + math.exp(0.8) + math.exp(0.1))
    info = both - math.log(math.exp(0.9) + math.exp(0.8))
    assert losses.infonce_judge_loss(pos, pos_mask, neg, neg_mask).item() == pytest.approx(info)
    # -(ln .9 + ln .8 + ln(1 - .1)) / 3
    bce = -(math.log(0.9) + math.log(0.8) + math.log(0.9)) / 3
    assert losses.bce_judge_loss(pos, pos_mask, neg, neg_mask).item() == pytest.approx(bce)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # the first question: .1 - ln(e^.9 + e^.8); the second has no negative and counts 0
        ("paper", 0.1 - math.log(math.exp(0.9) + math.exp(0.8))),
        # ln(e^.9 + e^.8 + e^.1) - ln(e^.9 + e^.8); the second again 0
        ("infonce", math.log1p(math.exp(0.1) / (math.exp(0.9) + math.exp(0.8)))),
        # -(ln .9 + ln .8 + ln .9) / 3, and -ln .25 of the second's only rationale
        ("bce", -(math.log(0.9) + math.log(0.8) + math.log(0.9)) / 3 - math.log(0.25)),
    ],
)
def test_judge_losses_sum_over_questions(name: str, expected: float) -> None:
    """Positives .9 .8 against .1, and .25 against none; 0.5 fills what the masks leave out."""
    pos = torch.tensor([[0.9, 0.8], [0.25, 0.5]]).logit()
    neg = torch.tensor([[0.1], [0.5]]).logit()
    pos_mask = torch.tensor([[True, True], [True, False]])
    neg_mask = torch.tensor([[True], [False]])
    found = losses.JUDGE_LOSSES[name](pos, pos_mask, neg, neg_mask)
    assert found.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", list(losses.JUDGE_LOSSES))
def test_a_judge_loss_without_negatives_is_finite_and_so_is_its_gradient(name: str) -> None:
    pos = torch.zeros((2, 1), requires_grad=True)
    neg = torch.zeros((2, 1), requires_grad=True)
    loss = losses.JUDGE_LOSSES[name](
        pos, torch.ones(2, 1).bool(), neg, torch.tensor([[True], [False]])
    )
    loss.backward()
    assert torch.isfinite(loss)
    for gradient in (pos.grad, neg.grad):
        assert gradient is not None
        assert torch.isfinite(gradient).all()


def paper_of_scores(pos: torch.Tensor, neg: torch.Tensor) -> torch.Tensor:
    return -(pos.exp().sum() / neg.exp().sum()).log()


def infonce_of_scores(pos: torch.Tensor, neg: torch.Tensor) -> torch.Tensor:
    return -(pos.exp().sum() / (pos.exp().sum() + neg.exp().sum())).log()


def bce_of_scores(pos: torch.Tensor, neg: torch.Tensor) -> torch.Tensor:
    return -(pos.log().sum() + (1 - neg).log().sum()) / (len(pos) + len(neg))


OF_SCORES = {"paper": paper_of_scores, "infonce": infonce_of_scores, "bce": bce_of_scores}
"""The losses of one question as the paper and the textbook write them: of scores, not logits."""

logits = st.lists(st.floats(-6, 6), min_size=1, max_size=4)


@given(logits, logits)
def test_a_judge_loss_of_logits_is_that_of_their_scores_and_so_is_its_gradient(
    right: list[float], wrong: list[float]
) -> None:
    """In double precision, where a score of logit 6 is still far from 1."""
    assert set(OF_SCORES) == set(losses.JUDGE_LOSSES)
    for name, of_scores in OF_SCORES.items():
        pos = torch.tensor([right], dtype=torch.double, requires_grad=True)
        neg = torch.tensor([wrong], dtype=torch.double, requires_grad=True)
        masks = torch.ones_like(pos).bool(), torch.ones_like(neg).bool()
        found = losses.JUDGE_LOSSES[name](pos, masks[0], neg, masks[1])
        expected = of_scores(pos.sigmoid()[0], neg.sigmoid()[0])
        torch.testing.assert_close(found, expected)
        for got, wanted in zip(
            torch.autograd.grad(found, (pos, neg)),
            torch.autograd.grad(expected, (pos, neg)),
            strict=True,
        ):
            torch.testing.assert_close(got, wanted)


E50 = math.exp(-50)


@pytest.mark.parametrize(
    ("name", "sign", "value", "right_gradient", "wrong_gradient"),
    [
        # one right and one wrong text, told apart (z = 50, -50): s = 1 and 0, s · (1 - s) = e^-50
        ("paper", 1, -1.0, -E50, E50),  # 0 - 1
        # ln(1 + e^-1); its derivatives by the scores are -+ sigmoid(-1) = .2689
        ("infonce", 1, math.log1p(math.exp(-1)), -0.26894142 * E50, 0.26894142 * E50),
        ("bce", 1, E50, -E50 / 2, E50 / 2),  # both -ln sigmoid(50) = e^-50; their mean
        # the wrong way round (z = -50, 50): s = 0 and 1
        ("paper", -1, 1.0, -E50, E50),
        ("infonce", -1, math.log1p(math.e), -0.73105858 * E50, 0.73105858 * E50),
        ("bce", -1, 50.0, -0.5, 0.5),
    ],
)
def test_judge_losses_hold_where_a_score_rounds_to_1(
    name: str, sign: int, value: float, right_gradient: float, wrong_gradient: float
) -> None:
    """In single precision; of scores `bce` is infinite here and every gradient 0 or no number."""
    pos = torch.tensor([[50.0 * sign]], requires_grad=True)
    neg = torch.tensor([[-50.0 * sign]], requires_grad=True)
    mask = torch.ones(1, 1).bool()
    loss = losses.JUDGE_LOSSES[name](pos, mask, neg, mask)
    assert loss.item() == pytest.approx(value, rel=1e-5)
    right, wrong = torch.autograd.grad(loss, (pos, neg))
    assert right.item() == pytest.approx(right_gradient, rel=1e-5)
    assert wrong.item() == pytest.approx(wrong_gradient, rel=1e-5)


values = st.floats(0, 10, width=32)


@given(st.lists(values, min_size=1, max_size=6), st.floats(0.01, 0.99), st.floats(0.5, 5))
def test_the_negative_term_is_bounded_and_vanishes_past_the_margin(
    ces: list[float], score: float, delta: float
) -> None:
    ce = torch.tensor([ces])
    mask = torch.ones_like(ce).bool()
    s = torch.full_like(ce, score)
    for _, weigh in losses.SCHEMES.values():
        value = losses.negative_term(
            ce, weigh(ce, mask, 1 - s, torch.rand(ce.shape)), s, delta
        ).item()
        assert -delta - 1e-5 <= value <= 0
    picked = losses.weight_highest(ce, mask, s, ce)
    if max(ces) >= delta:
        assert losses.negative_term(ce, picked, s, delta).item() == 0


@given(st.lists(values, min_size=1, max_size=6))
def test_weights_of_every_scheme_sum_to_one(ces: list[float]) -> None:
    ce = torch.tensor([ces, ces])
    mask = torch.ones_like(ce).bool()
    mask[1] = False
    s = torch.full_like(ce, 0.5)
    assert set(losses.SCHEMES) == set(ManyToOneScheme)
    for pair in losses.SCHEMES.values():
        for weigh in pair:
            sums = weigh(ce, mask, s, torch.rand(ce.shape)).float().sum(1)
            torch.testing.assert_close(sums, torch.tensor([1.0, 0.0]))


@given(st.floats(0.1, 2.9))
def test_a_step_on_a_negative_raises_its_cross_entropy_until_delta(start: float) -> None:
    """Gradient descent on -beta * L_neg moves ce up, and not at all past delta."""
    ce = torch.tensor([[start]], requires_grad=True)
    one = torch.ones(1, 1)
    for _ in range(60):
        loss = -0.2 * losses.negative_term(ce, one, torch.zeros(1, 1), delta=3.0)
        (gradient,) = torch.autograd.grad(loss, ce)
        with torch.no_grad():
            ce -= gradient
    assert start < ce.item() <= 3.0 + 0.2 + 1e-4
    assert ce.item() >= 3.0 - 1e-4


# --- logit distillation -------------------------------------------------------------------------

# What TRL 1.16.0's `GKDTrainer.generalized_jsd_loss` says of each of three tokens of these logits.
STUDENT_LOGITS = [[2.0, 0.0, -1.0, 0.5], [0.0, 0.0, 0.0, 0.0], [10.0, -10.0, 3.0, 1.0]]
TEACHER_LOGITS = [[1.0, 1.0, -2.0, 0.0], [3.0, 0.0, -3.0, 1.0], [9.0, -8.0, 2.0, 4.0]]
TRL = {
    (0, 1.0): [0.3628722, 0.848155, 0.0201613],
    (0, 2.0): [0.0911728, 0.3718916, 0.0817674],
    (0.1, 1.0): [0.0308793, 0.0757613, 0.0012344],
    (0.5, 1.0): [0.0740854, 0.2201901, 0.0020573],
    (0.5, 2.0): [0.0211213, 0.0967696, 0.0137971],
    (0.9, 2.0): [0.0072885, 0.040306, 0.0041675],
    (1, 1.0): [0.2690277, 1.535641, 0.0060929],
    (1, 2.0): [0.080291, 0.4838875, 0.0446763],
}


@pytest.mark.parametrize(("beta", "temperature"), TRL)
def test_the_divergence_of_logits_is_trl_s(beta: float, temperature: float) -> None:
    student = torch.tensor(STUDENT_LOGITS, requires_grad=True)
    teacher = torch.tensor(TEACHER_LOGITS)
    found = losses.generalised_jsd(student, teacher, beta, temperature)
    assert found.tolist() == pytest.approx(TRL[beta, temperature], abs=2e-7)
    same = losses.generalised_jsd(teacher, teacher, beta, temperature)
    assert same.tolist() == pytest.approx([0.0] * 3, abs=1e-6)
    found.sum().backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
