"""The method's equations put together, every number worked out by hand (METHOD 1 to 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qcrd.method import losses
from qcrd.method.judge.model import Judge, LocalJudge
from qcrd.method.judge.training_pairs import TrainingPair
from qcrd.method.self_consistency import majority_vote, split_rationales
from qcrd.method.student.targets import Target
from qcrd.method.training.objectives import OBJECTIVES, get_objective
from qcrd.method.training.schedule import make_schedule
from qcrd.method.training.step_counts import count_step
from qcrd.method.training.step_loss import StepModule
from qcrd.method.training.trainer import Trainer
from qcrd.method.training.training_example import TrainingExample
from qcrd.questions.labelling import build_item
from qcrd.records.rationales import Question, Rationale
from qcrd.records.specs.rationale_spec import RationaleSpec
from qcrd.records.specs.spec import MethodSpec
from qcrd.records.specs.task import AnswerKind, TaskSpec
from qcrd.records.specs.training_spec import LossSpec, ManyToOneScheme, StudentAnswers
from tests import tiny
from tests.unit.method.training.test_trainer import judge, lessons, spec, student, validate

# --- knowledge: the vote, the positive rules, the label modes -------------------------------------

SAID = ("a", "a", "b", "c", None)


@pytest.mark.parametrize(
    ("rule", "gold", "positives"),
    [
        # the vote is a, with 2 of 4 readable answers
        ("majority", "b", [0, 1]),
        ("majority", None, [0, 1]),
        ("gold", "b", [2]),
        ("gold", "a", [0, 1]),
        ("gold", "z", []),
        # the vote is wrong: nothing is both
        ("majority_and_gold", "b", []),
        ("majority_and_gold", "a", [0, 1]),
        # what has no answer is never positive, not even where there is no gold label
        ("gold", None, []),
    ],
)
def test_positive_rules(rule: Any, gold: str | None, positives: list[int]) -> None:
    made = [
        Rationale(id=str(i), question_id="q", text="r", answer=answer)
        for i, answer in enumerate(SAID)
    ]
    ballot = majority_vote(SAID, "q")
    assert (ballot.answer, ballot.margin) == ("a", 1 / 4)
    found, rest = split_rationales(made, ballot, rule, gold)
    assert [int(r.id) for r in found] == positives
    assert [int(r.id) for r in rest] == [i for i in range(5) if i not in positives]


@pytest.mark.parametrize(
    ("mode", "written", "label", "gold"),
    [
        # gold: the label as written is learned, whatever the vote says
        ("gold", "Twenty-one: 21", "Twenty-one: 21", "21"),
        # llm: the vote is learned; a gold label that is there still counts right and wrong
        ("llm", "21", "42", "21"),
        ("llm", None, "42", None),
    ],
)
def test_label_modes(mode: Any, written: str | None, label: str, gold: str | None) -> None:
    """Two outputs say 84 / 2 = 42 and one says 21: the vote is 42, 2 of 3."""
    asked = Question(id="q", text="Half of 84?", label=written)
    settings = MethodSpec(task=TaskSpec(answer=AnswerKind.NUMBER), label_mode=mode)
    outputs = [
        "Half.\n<Answer>: 84 / 2",
        "It is.\n<Answer>: 42.0",
        "A quarter.\n<Answer>: 21",
    ]
    found = build_item(asked, outputs, settings)
    assert (found.label, found.gold, found.vote.answer) == (label, gold, "42")
    assert [r.text for r in found.positives] == ["Half.", "It is."]
    assert [r.text for r in found.negatives] == ["A quarter."]


def test_a_rule_by_the_gold_label_turns_a_wrong_vote_around() -> None:
    """The vote is 42, the gold label 21: by `gold` the one minority rationale is the positive."""
    asked = Question(id="q", text="?", label="21")
    rationales = RationaleSpec(positive_rule="gold")
    settings = MethodSpec(task=TaskSpec(answer=AnswerKind.NUMBER), rationales=rationales)
    outputs = ["x\n<Answer>: 42", "y\n<Answer>: 42", "z\n<Answer>: 21"]
    found = build_item(asked, outputs, settings)
    assert [r.text for r in found.positives] == ["z"]
    assert [r.text for r in found.negatives] == ["x", "y"]


# --- the judge: section 3.3, and the weight of its loss in eq. 8 ----------------------------------


class Table(nn.Module):
    """An encoder whose states are looked up: token id -> two numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(hidden_size=2)
        self.states = nn.Embedding.from_pretrained(
            torch.tensor([[9.0, 9.0], [1.0, -2.0], [3.0, -1.0]])
        )

    def get_input_embeddings(self) -> nn.Embedding:
        return self.states

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.states(input_ids))


def test_the_judges_score() -> None:
    """Tokens (1, -2) and (3, -1); the padding's (9, 9) is masked. Their maximum is (3, -1); the
    first layer is the identity, so ReLU leaves (3, 0); the second gives the logit
    .5 · 3 + 1 · 0 - 1 = .5; sigmoid(.5) = 1 / (1 + e^-.5) = .622459."""
    made = Judge(Table(), tiny.tokenizer(), hidden=2, max_tokens=8)
    with torch.no_grad():
        made.first.weight.copy_(torch.eye(2))
        made.first.bias.zero_()
        made.second.weight.copy_(torch.tensor([[0.5, 1.0]]))
        made.second.bias.fill_(-1.0)
    logit = made(torch.tensor([[1, 2, 0]]), torch.tensor([[1, 1, 0]]))
    assert logit.item() == pytest.approx(0.5)
    score = torch.sigmoid(logit)
    assert score.item() == pytest.approx(1 / (1 + math.exp(-0.5)))
    assert score.item() == pytest.approx(0.622459, abs=1e-6)


class Weighed(LocalJudge):
    """Notes the weight that each update is given."""

    weights: list[float]

    def update(
        self, iteration: int, training_pairs: Sequence[TrainingPair], *, weight: float
    ) -> dict[str, float]:
        self.weights.append(weight)
        return super().update(iteration, training_pairs, weight=weight)


def test_eq8_alpha3_falls_by_a_tenth_each_iteration() -> None:
    """.5, .5 · .9 = .45, .5 · .81 = .405."""
    plain = judge()
    noting = Weighed(plain.model, plain.spec, seed=0)
    noting.weights = []
    made = make_schedule("qcrd", spec(iterations=3), n_examples=8, seed=0)
    list(Trainer(student(), lessons(), made, validate, noting).run())
    assert noting.weights == pytest.approx([0.5, 0.45, 0.405])


# --- the student: eqs 3, 6, 7 under every scheme of Table 5 ---------------------------------------

CE = torch.tensor([[1.0, 2.0, 4.0], [3.0, 5.0, 0.0]])
MASK = torch.tensor([[True, True, True], [True, True, False]])
S = torch.tensor([[0.5, 0.8, 0.2], [0.9, 0.6, 0.0]])


@pytest.mark.parametrize(
    ("scheme", "positive", "negative"),
    [
        # lowest: .5 · 1 + .9 · 3 = 3.2
        # highest, ce - 6 = -2 and -1: (1 - .2) · -2 + (1 - .6) · -1 = -2
        (ManyToOneScheme.MIN_MAX, 3.2, -2.0),
        # highest: .2 · 4 + .6 · 5 = 3.8
        # lowest, ce - 6 = -5 and -3: (1 - .5) · -5 + (1 - .9) · -3 = -2.8
        (ManyToOneScheme.MAX_MIN, 3.8, -2.8),
        # (.5 · 1 + .8 · 2 + .2 · 4) / 3 + (.9 · 3 + .6 · 5) / 2 = 2.9 / 3 + 5.7 / 2
        # (.5 · -5 + .2 · -4 + .8 · -2) / 3 + (.1 · -3 + .4 · -1) / 2 = -4.9 / 3 - .7 / 2
        (ManyToOneScheme.MEAN, 2.9 / 3 + 2.85, -4.9 / 3 - 0.35),
        # by s: (.5 · .5 · 1 + .8 · .8 · 2 + .2 · .2 · 4) / 1.5 + (.9 · .9 · 3 + .6 · .6 · 5) / 1.5
        #     = 1.69 / 1.5 + 4.23 / 1.5
        # by 1 - s: (.5² · -5 + .2² · -4 + .8² · -2) / 1.5 + (.1² · -3 + .4² · -1) / .5
        #     = -2.69 / 1.5 - .19 / .5
        (ManyToOneScheme.WEIGHTED_MEAN, 5.92 / 1.5, -2.69 / 1.5 - 0.38),
    ],
)
def test_eqs_3_6_7_by_scheme(scheme: ManyToOneScheme, positive: float, negative: float) -> None:
    """δ = 6, so that every negative is within the margin; β = .2, N = 2."""
    luck = torch.zeros_like(CE)
    for_positives, for_negatives = losses.SCHEMES[scheme]
    pos = losses.positive_term(CE, for_positives(CE, MASK, S, luck), S)
    neg = losses.negative_term(CE, for_negatives(CE, MASK, (1 - S) * MASK, luck), S, delta=6.0)
    assert pos.item() == pytest.approx(positive)
    assert neg.item() == pytest.approx(negative)
    total = losses.contrastive_loss(pos, neg, beta=0.2) / 2
    assert total.item() == pytest.approx((positive - 0.2 * negative) / 2)


def test_eqs_6_7_by_sampling() -> None:
    """Positives: .5 · 1, .8 · 2 or .2 · 4 with .9 · 3 or .6 · 5: six sums, .5 or 1.6 or .8 more
    than 2.7 or 3. Negatives under δ = 6: .5 · -5, .2 · -4 or .8 · -2 with .1 · -3 or .4 · -1."""
    for_positives, for_negatives = losses.SCHEMES[ManyToOneScheme.SAMPLING]
    seen: tuple[set[float], set[float]] = set(), set()
    for seed in range(200):
        luck = torch.rand(CE.shape, generator=torch.Generator().manual_seed(seed))
        pos = losses.positive_term(CE, for_positives(CE, MASK, S, luck), S)
        neg = losses.negative_term(CE, for_negatives(CE, MASK, 1 - S, luck), S, delta=6.0)
        seen[0].add(round(pos.item(), 4))
        seen[1].add(round(neg.item(), 4))
    assert seen[0] == {round(a + b, 4) for a in (0.5, 1.6, 0.8) for b in (2.7, 3.0)}
    assert seen[1] == {round(a + b, 4) for a in (-2.5, -0.8, -1.6) for b in (-0.3, -0.4)}


# --- eq. 8 per method -----------------------------------------------------------------------------

COSTS = {
    # summed cross entropy and tokens
    "la": (1.0, 1),
    "lb": (9.0, 3),
    "p1": (3.0, 3),  # mean 1
    "p2": (4.0, 2),  # mean 2
    "p3": (3.0, 1),  # mean 3
    "p4": (10.0, 2),  # mean 5
    "n1": (2.0, 2),  # mean 1
    "n2": (5.0, 2),  # mean 2.5
    "n3": (8.0, 2),  # mean 4
    "": (0.0, 0),
    "p2 answer: la": (6.0, 4),
    "p3 answer: lb": (8.0, 3),
}
JUDGED = {"p1": 0.5, "p2": 0.8, "p3": 0.9, "p4": 0.6, "n1": 0.2, "n2": 0.4, "n3": 0.1}


class Told:
    """A student whose cross entropies are given."""

    device = torch.device("cpu")
    model = None
    one_call = False
    autocast = nullcontext

    def __init__(self) -> None:
        self.asked: list[str] = []

    def tokenize_parts(self, target: Target) -> tuple[list[int], list[int]]:
        before, answer = (COSTS[part] for part in split_costs(target))
        return [0] * before[1], [0] * answer[1]

    def tokenize_target(self, target: Target) -> list[int]:
        before, answer = self.tokenize_parts(target)
        return before + answer

    def part_cross_entropy(
        self, prompts: Sequence[str], owner: Sequence[int], targets: Sequence[Target]
    ) -> tuple[Tensor, Tensor]:
        self.asked += prompts
        pairs = [[COSTS[part] for part in split_costs(target)] for target in targets]
        sums, counts = ([[cost[i] for cost in pair] for pair in pairs] for i in (0, 1))
        return torch.tensor(sums), torch.tensor(counts).float()

    def cross_entropy(
        self, prompts: Sequence[str], owner: Sequence[int], targets: Sequence[Target]
    ) -> tuple[Tensor, Tensor]:
        sums, counts = self.part_cross_entropy(prompts, owner, targets)
        return sums.sum(1), counts.sum(1)

    def mean_cross_entropy(
        self, prompts: Sequence[str], owner: Sequence[int], targets: Sequence[Target]
    ) -> Tensor:
        total, count = self.cross_entropy(prompts, owner, targets)
        return total / count


def split_costs(target: Target) -> tuple[str, str]:
    """A joined target costs what the whole of it does."""
    joined = f"{target.text} {target.answer}"
    return (joined, "") if joined in COSTS else (target.text, target.answer)


def rationales(*names: str) -> tuple[Rationale, ...]:
    return tuple(Rationale(id=name, question_id="q", text=name) for name in names)


BATCH = [
    TrainingExample("a", "a?", "la", "la", rationales("p2", "p1"), rationales("n1", "n2")),
    TrainingExample("b", "b?", "lb", "lb", rationales("p3", "p4"), rationales("n3")),
]


@pytest.mark.parametrize(
    ("method", "scores", "alpha", "expected"),
    [
        # one normaliser: (1 + 9) / (1 + 3) = 2.5, and not the mean of the means, (1 + 3) / 2
        ("finetune", {}, (0.5, 0.5, 0.5), 2.5),
        # (6 + 8) / (4 + 3)
        ("single_task", {}, (0.5, 0.5, 0.5), 2.0),
        # the first rationale of each: (2 + 3) / 2 = 2.5; .5 · 2.5 + .5 · 2.5
        ("dss", {}, (0.5, 0.5, 0.5), 2.5),
        # the lowest of each: (1 + 3) / 2 = 2; .5 · 2.5 + .5 · 2
        ("dss+positives", {}, (0.5, 0.5, 0.5), 2.25),
        # negatives without a judge: (2.5 - 3) and, past the margin, 0;
        # (1 + 3 + .2 · .5) / 2 = 2.05; .5 · 2.5 + .5 · 2.05
        ("dss+positives+negatives", {}, (0.5, 0.5, 0.5), 2.275),
        # positives .5 · 1 + .9 · 3 = 3.2, negatives (1 - .4) · (2.5 - 3) = -.3;
        # (3.2 + .2 · .3) / 2 = 1.63; .5 · 2.5 + .5 · 1.63
        ("qcrd", JUDGED, (0.5, 0.5, 0.5), 2.065),
        # 1 · 2.5 + 2 · 1.63, whatever alpha3 is
        ("qcrd", JUDGED, (1.0, 2.0, 9.0), 5.76),
    ],
)
def test_eq8_per_method(method: str, scores: dict[str, float], alpha: Any, expected: float) -> None:
    spec = LossSpec(alpha=alpha, beta=0.2, delta=3.0)
    told: Any = Told()
    terms = StepModule(told, OBJECTIVES[method], spec)(BATCH, scores, 0)
    assert terms.total.item() == pytest.approx(expected)
    assert terms.losses["loss"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        # N counts the question that has negatives only: it takes part
        ({"contrast_normaliser": "all"}, 0.5 * 2.5 + 0.5 * (4 + 0.2 * (0.5 + 2.0)) / 3),
        ({"contrast_normaliser": "with_positives"}, 0.5 * 2.5 + 0.5 * (4 + 0.2 * 2.5) / 3),
        # δ is 2 over the positive that was picked: 1 + 2 for a, 3 + 2 for b, and nothing for c,
        # which has none; in force are n2 with 2.5 - 3 and n3 with 4 - 5
        ({"delta": {"over_positive": 2.0}}, 0.5 * 2.5 + 0.5 * (4 + 0.2 * (0.5 + 1.0)) / 3),
    ],
)
def test_eq3_with_a_question_that_has_negatives_only(change: Any, expected: float) -> None:
    """c has one negative of mean 1, so 1 - 3 = -2; its label weighs nothing here."""
    only = TrainingExample("c", "c?", "", "c", (), rationales("n1"))
    spec = LossSpec.model_validate({"alpha": (0.5, 0.5, 0.5), "beta": 0.2, **change})
    told: Any = Told()
    method = OBJECTIVES["dss+positives+negatives"]
    terms = StepModule(told, method, spec)([*BATCH, only], {}, 0)
    assert terms.total.item() == pytest.approx(expected)
    assert terms.positive is not None
    assert terms.negative is not None
    label = 0.5 * 2.5
    parts = label + terms.positive.item() + terms.negative.item()
    assert terms.total.item() == pytest.approx(parts)


# --- rationale first: the answer is a term of its own ---------------------------------------------

ONLY_NEGATIVE = TrainingExample("c", "c?", "lb", "lb", (), rationales("n1"))


@pytest.mark.parametrize(
    ("answers", "scores", "expected"),
    [
        # p1 and p3 are picked by their rationales' means 1 and 3; behind them stand la and lb:
        # L_pred = (1 + 9) / (1 + 3) = 2.5, without c, which has nothing to answer behind;
        # in force are n2 with 2.5 - 3 and n1 with 1 - 3: (4 + .2 · 2.5) / 3 = 1.5
        ("reasoned", {}, 0.5 * 2.5 + 0.5 * 1.5),
        # scores weigh rationales, and never an answer:
        # (3.2 + .2 · ((1 - .4) · .5 + (1 - .2) · 2)) / 3 = 1.19333
        ("reasoned", JUDGED, 0.5 * 2.5 + 0.5 * 3.58 / 3),
        # half of that and half of the labels', c's among them: (1 + 9 + 9) / (1 + 3 + 3)
        ("both", {}, 0.5 * (2.5 + 19 / 7) / 2 + 0.5 * 1.5),
    ],
)
def test_an_answer_behind_a_rationale_has_its_own_term(
    answers: StudentAnswers, scores: dict[str, float], expected: float
) -> None:
    spec, told = LossSpec(alpha=(0.5, 0.5, 0.5), beta=0.2, delta=3.0), Told()
    any_told: Any = told
    step = StepModule(any_told, get_objective("qcrd", answers), spec)
    terms = step([*BATCH, ONLY_NEGATIVE], scores, 0)
    assert terms.losses["loss"] == pytest.approx(expected)
    assert any(prompt.startswith("predict: ") for prompt in told.asked) == (answers == "both")


def test_a_step_in_shares_has_the_answers_term_of_the_whole() -> None:
    told: Any = Told()
    objective, spec = get_objective("qcrd", "reasoned"), LossSpec()
    step, batch = StepModule(told, objective, spec), [*BATCH, ONLY_NEGATIVE]
    whole = step(batch, JUDGED, 0)
    counts = count_step(told, batch, objective, spec)
    shares = [step([one], JUDGED, 0, counts).losses for one in batch]
    for name, value in whole.losses.items():
        assert sum(share[name] for share in shares) == pytest.approx(value)
