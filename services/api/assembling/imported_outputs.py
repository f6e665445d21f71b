"""Teacher outputs that were already paid for, matched to questions by their text and choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.api.assembling.labelling import OutputsByQuestion
from services.api.files.questions import QuestionRow


@dataclass(frozen=True)
class ImportedOutputs:
    """`unanswered` training questions got no output; `unused` lines belong to no question."""

    training: OutputsByQuestion
    test: OutputsByQuestion
    unanswered: int
    unused: int


def match_outputs(
    imported: Sequence[QuestionRow], training: Sequence[QuestionRow], test: Sequence[QuestionRow]
) -> ImportedOutputs:
    """Outputs of test questions; the test file may contain them itself."""
    outputs_by_question = {row.question.id: row.outputs for row in imported if row.outputs}
    own_outputs = {row.question.id: row.outputs for row in test if row.outputs}
    training_ids = {row.question.id for row in training}
    test_ids = {row.question.id for row in test}
    return ImportedOutputs(
        training={
            asked: outputs_by_question[asked]
            for asked in training_ids
            if asked in outputs_by_question
        },
        test={
            asked: outputs_by_question[asked] for asked in test_ids if asked in outputs_by_question
        }
        | own_outputs,
        unanswered=sum(asked not in outputs_by_question for asked in training_ids),
        unused=sum(asked not in training_ids | test_ids for asked in outputs_by_question),
    )
