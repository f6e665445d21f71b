"""Teacher outputs that were already paid for, matched to questions by their text and choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.api.assembling.labelling import Outputs
from services.api.files.questions import Row


@dataclass(frozen=True)
class Imported:
    """`unanswered` training questions got no output; `unused` lines belong to no question."""

    training: Outputs
    test: Outputs
    unanswered: int
    unused: int


def match(imported: Sequence[Row], training: Sequence[Row], test: Sequence[Row]) -> Imported:
    """Test questions may bring their outputs themselves, in the test file."""
    given = {row.question.id: row.outputs for row in imported if row.outputs}
    own = {row.question.id: row.outputs for row in test if row.outputs}
    trained_on = {row.question.id for row in training}
    tested_on = {row.question.id for row in test}
    return Imported(
        training={asked: given[asked] for asked in trained_on if asked in given},
        test={asked: given[asked] for asked in tested_on if asked in given} | own,
        unanswered=sum(asked not in given for asked in trained_on),
        unused=sum(asked not in trained_on | tested_on for asked in given),
    )
