"""The ladder's data sets: rationale items from published teacher outputs, like a job's.

A folder per data set with `train.jsonl` and `test.jsonl`, read by the gateway's reader and turned
into rationale items by its rules.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from qcrd.errors import NotFound
from qcrd.method.answers import canonical
from qcrd.method.evaluation.statistics import flag_leaked
from qcrd.method.prompts import format_question
from qcrd.method.training.training_example import TrainingExample
from qcrd.questions import labelling
from qcrd.questions.rows import QuestionRow, read_rows
from qcrd.records.rationales import Question, RationaleCounts, RationaleItem
from qcrd.records.specs.rationale_spec import RationaleSpec
from qcrd.records.specs.spec import MethodSpec
from qcrd.records.specs.task import AnswerKind, TaskSpec
from services.trainer.data.training_dataset import LabeledQuestions, make_example

T = TypeVar("T")


@dataclass(frozen=True)
class Dataset:
    """A data set's form of answers, and its lengths in tokens.

    `every_output_is_right`: its source kept only outputs that end in the label, in any words.
    """

    task: TaskSpec
    question_tokens: int
    rationale_tokens: int
    label_tokens: int
    every_output_is_right: bool = False


KINDS = (
    *("animal", "bird", "city", "country", "food", "fruit", "instrument", "language", "person"),
    *("sport", "tool", "tree", "vegetable"),
)
"""Of the demo. Its rationales are those that a job of `examples/demo.yaml` assembled."""
NUMBER_TASK = TaskSpec(answer=AnswerKind.NUMBER)
DATASETS = {
    "svamp": Dataset(NUMBER_TASK, 96, 64, 20),
    "svamp_gpt35": Dataset(NUMBER_TASK, 96, 96, 8, every_output_is_right=True),
    "last_letter": Dataset(TaskSpec(), 48, 96, 10, every_output_is_right=True),
    "cqa": Dataset(TaskSpec(answer=AnswerKind.CHOICE), 128, 96, 24),
    "kinds": Dataset(TaskSpec(answer=AnswerKind.LABEL, labels=KINDS), 32, 32, 6),
    "tracking": Dataset(TaskSpec(answer=AnswerKind.LABEL, labels=("A", "B", "C")), 160, 128, 4),
}


MAX_UNUSED_EXAMPLES = 96


@dataclass(frozen=True)
class LadderData:
    """One data set for one seed. `seen[i]`: test question i also occurs in training;
    `others`: rationale items that were not drawn, to evaluate the judge on."""

    lessons: tuple[TrainingExample, ...]
    questions: dict[str, Question]
    validation: LabeledQuestions
    test: LabeledQuestions
    seen: tuple[bool, ...]
    others: tuple[TrainingExample, ...]
    counts: RationaleCounts


def load_data(
    folder: Path,
    dataset: Dataset,
    spec: MethodSpec,
    *,
    seed: int,
    train: int | None = None,
    validate: int | None = None,
    test: int | None = None,
) -> LadderData:
    """At most `train`, `validate` and `test` questions of each kind; None: all of them.

    The test questions are the same for every seed; the seed draws training and validation.
    """
    spec = spec.model_copy(
        update={
            "task": dataset.task,
            "rationales": RationaleSpec(
                import_file="train.jsonl", positive_rule=spec.rationales.positive_rule
            ),
        }
    )
    reading: labelling.AnswerReading = "label" if dataset.every_output_is_right else "parse"
    rows = list(_read_rows(folder / "train.jsonl"))
    items = [
        labelling.build_item(row.question, row.outputs, spec, [reading] * len(row.outputs))
        for row in rows
    ]
    usable = [item for item in items if item.gold is not None]
    training, validation = _split(usable, spec.hyperparameters.validation_share, seed)
    all_training, training = training, _sample_at_most(training, train, f"{seed}/train")
    validation = _sample_at_most(validation, validate, f"{seed}/validate")
    test_questions = _sample_at_most(
        [row.question for row in _read_rows(folder / "test.jsonl")], test, "test"
    )
    settings = MethodSpec(task=dataset.task, student=spec.student)
    # All training questions count as leaks, whichever were drawn.
    stories = [format_question(dataset.task, item.question) for item in items]
    drawn = {item.question.id for item in training}
    unused = [item for item in all_training if item.question.id not in drawn]
    return LadderData(
        lessons=tuple(make_example(item, settings) for item in training),
        questions={item.question.id: item.question for item in training},
        validation=_make_holdout([item.question for item in validation], dataset.task),
        test=_make_holdout(test_questions, dataset.task),
        seen=tuple(
            flag_leaked(stories, [format_question(dataset.task, q) for q in test_questions])
        ),
        others=tuple(
            make_example(item, settings)
            for item in _sample_at_most(unused, MAX_UNUSED_EXAMPLES, f"{seed}/others")
        ),
        counts=labelling.count_outcomes(items, reused=0),
    )


def _read_rows(path: Path) -> list[QuestionRow]:
    if not path.is_file():
        raise NotFound(f"no {path}: `--data` names the folder that holds the data sets' folders")
    with path.open("rb") as file:
        return list(read_rows(file))


def _make_holdout(questions: Sequence[Question], task: TaskSpec) -> LabeledQuestions:
    golds = [canonical(q.label or "", task, q) for q in questions]
    labelled = [(q, gold) for q, gold in zip(questions, golds, strict=True) if gold is not None]
    return LabeledQuestions(
        tuple(q for q, _ in labelled),
        tuple(gold for _, gold in labelled),
        tuple(q.label or "" for q, _ in labelled),
    )


def _split(
    items: Sequence[RationaleItem], share: float, seed: int
) -> tuple[list[RationaleItem], list[RationaleItem]]:
    """Split as a job does: by the seed, in the file's order."""
    order = list(range(len(items)))
    random.Random(f"{seed}/validation").shuffle(order)
    validation_indexes = set(order[: max(1, round(share * len(items)))])
    training = [item for index, item in enumerate(items) if index not in validation_indexes]
    return training, [items[index] for index in sorted(validation_indexes)]


def _sample_at_most(items: Sequence[T], limit: int | None, salt: str) -> list[T]:
    if limit is None or limit >= len(items):
        return list(items)
    return random.Random(salt).sample(list(items), limit)
