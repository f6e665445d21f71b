"""A question to train on, and what a student learns to say to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qcrd.method.student.targets import Target, joined_target, reasoned_target
from qcrd.method.training.objectives import Objective
from qcrd.records.rationales import Rationale


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """One question to train the student on. `text` is the question with its options; `is_sure`:
    another answer than `gold` is wrong, which a vote that is not clear does not say to a student
    that answers behind its rationale."""

    id: str
    text: str
    label: str
    gold: str
    positives: Sequence[Rationale] = ()
    negatives: Sequence[Rationale] = ()
    choices: tuple[str, ...] = ()
    is_sure: bool = True


def has_rationales(example: TrainingExample, objective: Objective) -> bool:
    return bool(example.positives or (objective.uses_negatives and example.negatives))


def make_rationale_target(rationale: Rationale, objective: Objective) -> Target:
    """The span that eqs 6 and 7 act on: a rationale, with the mark that an answer would follow."""
    if objective.reasons:
        return reasoned_target(rationale.text)
    return Target(rationale.text, is_cut=rationale.is_cut)


def make_label_target(example: TrainingExample, objective: Objective) -> Target:
    """The label; of a joined student, behind its first positive."""
    if not objective.joined:
        return Target(answer=example.label)
    text = example.positives[0].text if example.positives else ""
    return joined_target(text, example.label)
