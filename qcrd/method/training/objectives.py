"""The terms that each method trains on: one trainer, one data order, different terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from qcrd.method.prompts import EXPLAIN_PREFIX, PREDICT_PREFIX
from qcrd.records.specs.training_spec import StudentAnswers


@dataclass(frozen=True)
class Objective:
    """`max_positives`: how many of a question's positives take part. `joined`: rationale and label
    are one target under the predict task. `uses_negatives` and `uses_judge` need many-to-one
    rationales. `answers` says how a student answers that learns rationales as a task of their own.
    """

    max_positives: int | None = 0
    """0 none, 1 the first, None all of them."""
    uses_negatives: bool = False
    uses_judge: bool = False
    joined: bool = False
    answers: StudentAnswers = "label"

    @property
    def predicts(self) -> bool:
        """Whether the student learns the predict task: its label, or all of a joined output."""
        return self.answers != "reasoned"

    @property
    def reasons(self) -> bool:
        """Whether its rationales are followed by its answer, under the explain task."""
        return self.answers != "label"

    @property
    def says_both(self) -> bool:
        """Whether one output holds rationale and answer, of those by which it is measured."""
        return self.joined or not self.predicts

    @property
    def answer_prefix(self) -> str:
        """The prefix of the task by whose answers the student is measured."""
        return PREDICT_PREFIX if self.predicts else EXPLAIN_PREFIX


OBJECTIVES: Mapping[str, Objective] = {
    "finetune": Objective(),
    "finetune_equal_compute": Objective(),
    "single_task": Objective(joined=True),
    "dss": Objective(max_positives=1),
    "dss+positives": Objective(max_positives=None),
    "dss+positives+negatives": Objective(max_positives=None, uses_negatives=True),
    "qcrd": Objective(max_positives=None, uses_negatives=True, uses_judge=True),
}
"""Method or ladder row -> its terms. The ablation ladder runs from dss to qcrd."""


def get_objective(method: str, answers: StudentAnswers) -> Objective:
    """The terms of `method` for a student that answers so; one that learns no rationales, or has
    them in its label's target, answers in the one way that it has."""
    objective = OBJECTIVES[method]
    if objective.max_positives == 0:
        return objective
    return replace(objective, answers=answers)
