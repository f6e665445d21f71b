"""The terms that each method trains on: one trainer, one data order, different terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Objective:
    """`max_positives`: how many of a question's positives take part. `joined`: rationale and label
    are one target under the predict task. `uses_negatives` and `uses_judge` need many-to-one
    rationales."""

    max_positives: int | None = 0
    """0 none, 1 the first, None all of them."""
    uses_negatives: bool = False
    uses_judge: bool = False
    joined: bool = False


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
