"""How often a study's verdict is wrong, on simulated studies whose truth is known.

    python -m benchmarks.verdicts [--studies 2000] [--bootstraps 400] [--json FILE]

A question has a difficulty, the logit of its probability of a right answer: normal, mean 1.2, sd
1.5, so that an accuracy is about .70. A method under a seed, and the baseline under the same one,
each shift all logits by a normal amount whose sd moves the accuracy by the scatter, in points, to
first order. Answers are drawn by these probabilities, questions anew for every study. Where a
method is better, its logits are shifted by that as well. Where it has questions of its own that lie
to it (`interaction`), each of its logits is shifted by a normal amount that stays the same over
seeds, and so is each of the baseline's: equal on all questions that could be asked, though not on
the ones that were.

A cell's studies are one series of a fixed seed: those of a shorter run are the first of a longer's.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, product
from pathlib import Path

import numpy as np

from qcrd.method.evaluation.statistics import crossed_bootstrap, mcnemar_test, wilson_interval
from qcrd.method.evaluation.verdicts import LEVEL, decide
from qcrd.records.reports.verdicts import EQUIVALENCE_MARGIN, MIN_SEEDS, Verdict

SEED = 16
QUESTIONS, SCATTERS = (200, 1_000, 9_824), (0.005, 0.01, 0.02)
LOGIT_MEAN, LOGIT_SD = 1.2, 1.5
DRAWS = 2_000
"""Bootstrap samples of a simulated study."""


@dataclass(frozen=True)
class Condition:
    """`difference` and `scatter` are shares; `interaction` is the sd of logits over questions."""

    questions: int
    scatter: float
    difference: float = 0.0
    interaction: float = 0.0
    methods: int = 1
    seeds: int = MIN_SEEDS


CELLS = tuple(Condition(n, scatter) for n, scatter in product(QUESTIONS, SCATTERS))


def draw_studies(condition: Condition) -> Iterator[np.ndarray]:
    """Endless studies: gains [methods, seeds, questions], 1 where only the method is right, -1
    where only the baseline is."""
    n, seeds = condition.questions, condition.seeds
    parts = [round(1000 * value) for value in (condition.scatter, condition.difference)]
    parts += [round(1000 * condition.interaction), condition.methods, seeds]
    rng = np.random.default_rng([SEED, n, *parts])
    students = condition.methods + 1
    while True:
        logits = rng.normal(LOGIT_MEAN, LOGIT_SD, n)
        own = condition.interaction * rng.normal(size=(students, 1, n))
        chances = 1 / (1 + np.exp(-logits))
        shifts = condition.scatter * rng.normal(size=(students, seeds, 1))
        shifts[1:] += condition.difference
        shifted = logits + own + shifts / (chances * (1 - chances)).mean()
        right = rng.random((students, seeds, n), dtype=np.float32) < 1 / (1 + np.exp(-shifted))
        yield right[1:].astype(np.int8) - right[0].astype(np.int8)


def judge_studies(condition: Condition, studies: int) -> Iterator[set[Verdict]]:
    """Of each study the verdicts that some row of it has."""
    for gains in islice(draw_studies(condition), studies):
        yield {one.verdict for one in decide(gains.mean(axis=2).tolist())}


def count_wrong(condition: Condition, studies: int) -> int:
    """Studies of equal methods in which one is called better or worse."""
    wrong = {Verdict.BETTER, Verdict.WORSE}
    return sum(bool(found & wrong) for found in judge_studies(condition, studies))


def count_doubted(condition: Condition, studies: int) -> int:
    """Of the wrong studies those in which the bootstrap that stands beside finds no difference in
    any row that is called better or worse."""
    doubted = 0
    for gains in islice(draw_studies(condition), studies):
        decisions = decide(gains.mean(axis=2).tolist())
        wrong = [
            row
            for row, one in zip(gains, decisions, strict=True)
            if one.verdict in (Verdict.BETTER, Verdict.WORSE)
        ]
        doubted += bool(wrong) and not any(map(_differs_by_crossed_bootstrap, wrong))
    return doubted


def _differs_by_crossed_bootstrap(gains: np.ndarray) -> bool:
    return crossed_bootstrap(gains, seed=0, draws=DRAWS).p <= LEVEL


def _differs_by_question_bootstrap(gains: np.ndarray) -> bool:
    """The rule of releases before: seeds as they are, the sum over seeds of a question drawn."""
    found = crossed_bootstrap(gains.sum(axis=0, keepdims=True), seed=0, draws=DRAWS)
    return not found.low <= 0 <= found.high


def _differs_by_one_seed(gains: np.ndarray) -> bool:
    first = gains[0]
    return mcnemar_test((first == 1).tolist(), (first == -1).tolist()) <= LEVEL


OTHER_RULES: dict[str, Callable[[np.ndarray], bool]] = {
    "bootstrap of seeds and questions": _differs_by_crossed_bootstrap,
    "bootstrap of questions": _differs_by_question_bootstrap,
    "McNemar, one seed": _differs_by_one_seed,
}


def count_wrong_by_others(condition: Condition, studies: int) -> dict[str, int]:
    """The same by the tests that stand beside the verdict, and by the rule it replaced."""
    wrong = dict.fromkeys(OTHER_RULES, 0)
    for gains in islice(draw_studies(condition), studies):
        for name, differs in OTHER_RULES.items():
            wrong[name] += differs(gains[0])
    return wrong


# --- the tables -----------------------------------------------------------------------------------


def format_share(count: int, n: int) -> str:
    found = wilson_interval(count, n)
    return f"{found.accuracy:.3f} ({found.low:.3f} to {found.high:.3f})"


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for row in (headers, ["---"] * len(headers), *rows):
        print(f"| {' | '.join(row)} |", flush=True)
    print()


def _name_cell(condition: Condition) -> list[str]:
    return [f"{condition.questions:,}", f"{100 * condition.scatter:g}"]


def print_equal_methods(studies: int, bootstraps: int) -> list[dict[str, object]]:
    print(f"Equal methods, {MIN_SEEDS} seeds: studies with a wrong 'better' or 'worse'\n")
    lines, rows = [], []
    for cell in CELLS:
        wrong, others = count_wrong(cell, studies), count_wrong_by_others(cell, bootstraps)
        shares = [format_share(count, bootstraps) for count in others.values()]
        rows.append([*_name_cell(cell), str(wrong), format_share(wrong, studies), *shares])
        lines.append({**asdict(cell), "studies": studies, "wrong": wrong, "others": others})
    names = [f"by {name} ({bootstraps:,})" for name in OTHER_RULES]
    print_table(["questions", "scatter", "wrong", "share (95 % Wilson)", *names], rows)
    return lines


def print_power(studies: int) -> list[dict[str, object]]:
    """What a true difference of 0, of the margin, and of twice the margin is called."""
    print("One method against the baseline: share of verdicts\n")
    lines, rows = [], []
    for cell in CELLS:
        shares = []
        for times in (0, 1, 2):
            condition = Condition(cell.questions, cell.scatter, times * EQUIVALENCE_MARGIN)
            found = Counter(v for verdicts in judge_studies(condition, studies) for v in verdicts)
            shares += [found[Verdict.BETTER], found[Verdict.NO_DIFFERENCE]]
            lines.append({**asdict(condition), "studies": studies, "verdicts": dict(found)})
        rows.append([*_name_cell(cell), *(f"{count / studies:.3f}" for count in shares)])
    truths = [f"{100 * times * EQUIVALENCE_MARGIN:g}" for times in (0, 1, 2)]
    words = (Verdict.BETTER, Verdict.NO_DIFFERENCE)
    headers = [f"true {truth}: {word}" for truth in truths for word in words]
    print_table(["questions", "scatter", *headers], rows)
    return lines


def print_variations(studies: int) -> list[dict[str, object]]:
    """Several methods in one study, more seeds, and questions that lie to one method."""
    print("Equal methods, other studies: those with a wrong 'better' or 'worse' in them\n")
    lines, rows = [], []
    for condition in (
        Condition(1_000, 0.01, methods=4),
        Condition(1_000, 0.01, seeds=10),
        *(Condition(n, 0.005, interaction=each) for n in QUESTIONS for each in (0.5, 1.0)),
    ):
        wrong, doubted = count_wrong(condition, studies), count_doubted(condition, studies)
        rows.append(
            [
                *_name_cell(condition),
                str(condition.methods),
                str(condition.seeds),
                f"{condition.interaction:g}",
                format_share(wrong, studies),
                f"{doubted} of {wrong}",
            ]
        )
        lines.append({**asdict(condition), "studies": studies, "wrong": wrong, "doubted": doubted})
    headers = ["questions", "scatter", "methods", "seeds", "interaction", "share (95 % Wilson)"]
    print_table([*headers, "doubted by the bootstrap beside it"], rows)
    return lines


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="How often a study's verdict is wrong.")
    parser.add_argument("--studies", type=int, default=2_000, help="simulated studies per cell")
    parser.add_argument(
        "--bootstraps", type=int, default=400, help="of them judged by the other tests as well"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    results = {
        "seed": SEED,
        "equal": print_equal_methods(options.studies, options.bootstraps),
        "power": print_power(options.studies),
        "variations": print_variations(options.studies),
    }
    print(f"{options.studies:,} studies per cell, seed {SEED}; scatter and truth in points.")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
