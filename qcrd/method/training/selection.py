"""Choice of the rationales that are taught, before the training: by how much they tell the student.

After MoRSD (Yan et al. 2025, arXiv:2509.23574), which chooses right rationales by the probability
that the student gives the answer behind them, and different ones. Ours was written from its
description: it ranks the rationales of each question, so that none loses all of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from qcrd.method.prompts import EXPLAIN_PREFIX, PREDICT_PREFIX
from qcrd.method.student.base import Student
from qcrd.method.student.targets import Target, reasoned_target
from qcrd.method.training.objectives import Objective
from qcrd.method.training.schedule import TrainingSchedule
from qcrd.method.training.training_example import TrainingExample
from qcrd.records.rationales import Rationale

EXAMPLES_PER_CALL = 64
NEAR_REPETITION = 0.8
"""Share of the words of two rationales that both have, from which on they say the same."""


def chooses_positives(schedule: TrainingSchedule) -> bool:
    """Whether a part of the positives is chosen before the first iteration."""
    learns_rationales = schedule.objective.max_positives != 0
    return learns_rationales and schedule.spec.positives.select == "difficulty"


def choose_positives_by_difficulty(
    student: Student, examples: Sequence[TrainingExample], schedule: TrainingSchedule
) -> tuple[list[str], float]:
    """`choose_positives` by what `student` makes of them, and the work that it was."""

    def measure() -> list[Any]:
        flops = student.flops
        with student.uncounted():
            difficulty = measure_difficulty(student, examples, schedule.objective)
            return [difficulty, student.flops - flops]

    # On one rank: what is taught must be the same on all.
    difficulty, work = student.ranks.run_on_main(measure)
    return choose_positives(examples, difficulty, schedule.spec.positives.keep), work


def measure_difficulty(
    student: Student, examples: Sequence[TrainingExample], objective: Objective
) -> dict[str, float]:
    """Mean cross entropy of the label's tokens, in nats, behind each positive of `examples` under
    `student` as it is: by the rationale's id, low for one that leads it to its answer."""
    found: dict[str, float] = {}
    for start in range(0, len(examples), EXAMPLES_PER_CALL):
        rows = [(e, r) for e in examples[start : start + EXAMPLES_PER_CALL] for r in e.positives]
        if objective.reasons:
            prompts = [EXPLAIN_PREFIX + example.text for example, _ in rows]
            targets = [reasoned_target(r.text, example.label) for example, r in rows]
        else:
            # As `qcrd.method.evaluation.rationale_use` asks for a label given a rationale.
            prompts = [f"{PREDICT_PREFIX}{example.text}\n{r.text}" for example, r in rows]
            targets = [Target(answer=example.label) for example, _ in rows]
        if rows:
            values = student.answer_cross_entropy(prompts, targets).tolist()
            found |= {r.id: value for (_, r), value in zip(rows, values, strict=True)}
    return found


def choose_positives(
    examples: Sequence[TrainingExample], difficulty: dict[str, float], keep: float
) -> list[str]:
    """Ids of the rationales that are kept: of each question the share `keep`, at least one, the
    least difficult first and near repetitions of a better one last."""
    chosen: list[str] = []
    for example in examples:
        # Equal texts are one rationale, whatever the number of outputs.
        unique = {r.id: r for r in example.positives}
        ranked = sorted(unique.values(), key=lambda r: difficulty[r.id])
        different: list[Rationale] = []
        repetitions: list[Rationale] = []
        for rationale in ranked:
            repeats = any(_share_words(rationale, better) for better in different)
            (repetitions if repeats else different).append(rationale)
        size = max(1, math.floor(keep * len(ranked)))
        chosen += [rationale.id for rationale in (different + repetitions)[:size]]
    return chosen


def keep_chosen(
    examples: Sequence[TrainingExample], chosen: Sequence[str]
) -> list[TrainingExample]:
    """The examples with no positives but the chosen ones, in the order of the choice."""
    places = {rationale_id: place for place, rationale_id in enumerate(chosen)}
    kept = []
    for example in examples:
        own = {r.id: r for r in example.positives if r.id in places}
        ordered = sorted(own.values(), key=lambda r: places[r.id])
        kept.append(replace(example, positives=tuple(ordered)))
    return kept


def _share_words(first: Rationale, second: Rationale) -> bool:
    one, other = set(first.text.lower().split()), set(second.text.lower().split())
    return len(one & other) >= NEAR_REPETITION * len(one | other)
