"""Loads a rationale set as training examples, with the held-out validation and test questions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from qcrd.errors import Invalid
from qcrd.method.prompts import format_question
from qcrd.method.training.training_example import TrainingExample
from qcrd.records.rationale_annotations import Revision
from qcrd.records.rationales import (
    Question,
    Rationale,
    RationaleItem,
    RationaleManifest,
    TestItem,
    Vote,
)
from qcrd.records.specs.spec import JobSpec, MethodSpec
from qcrd.runtime import keys
from qcrd.runtime.storage import rationale_edits
from qcrd.runtime.storage.json_lines import read_lines
from qcrd.runtime.storage.store import Store, read_record

MIN_CLEAR_VOTES, MIN_CLEAR_SHARE = 3, 0.8
"""Of a vote that says of another answer that it is wrong."""


@dataclass(frozen=True)
class LabeledQuestions:
    """Questions with their canonical gold labels, and their labels as written. `votes` are the
    teacher's, None where it has none; empty where nobody needs them."""

    questions: tuple[Question, ...]
    golds: tuple[str, ...]
    labels: tuple[str, ...]
    votes: tuple[str | None, ...] = ()
    rationales: tuple[tuple[Rationale, ...], ...] = ()
    """The teacher's, of both sides; empty where it was not asked these questions."""


@dataclass(frozen=True)
class TrainingDataset:
    """`questions` are those of the examples, in their order; `revision` has the edits that the
    examples were made with."""

    manifest: RationaleManifest
    examples: tuple[TrainingExample, ...]
    questions: tuple[Question, ...]
    validation: LabeledQuestions
    test: tuple[TestItem, ...]
    revision: Revision = field(default_factory=lambda: rationale_edits.make_revision({}))
    contradicting: int = 0
    """Positives that argue for another answer than the label, and are not taught before it."""

    @property
    def labels(self) -> tuple[tuple[str, Question], ...]:
        """The labels to train on, as written, each with its question."""
        return tuple(
            (x.label, question) for x, question in zip(self.examples, self.questions, strict=True)
        )


def load_dataset(
    store: Store, set_id: str, spec: JobSpec, revision: Revision | None = None
) -> TrainingDataset:
    """Read the set with the edits of `revision`, by default none. `Invalid` when it leaves nothing
    to train or validate on, or was assembled for another training file."""
    revision = revision or rationale_edits.make_revision({})
    corrections = rationale_edits.fold_edits(revision.edits)
    manifest = read_record(store, keys.rationale_manifest_key(set_id), RationaleManifest)
    _check_training_file(manifest, spec)
    items = [
        rationale_edits.apply_corrections(item, corrections)
        for key in manifest.shards
        for item in read_lines(store, key, RationaleItem)
    ]
    usable = [item for item in items if item.label is not None and _gold_or_vote(item) is not None]
    test = tuple(read_lines(store, manifest.test, TestItem)) if manifest.test else ()
    if manifest.validation:
        validation_items = list(read_lines(store, manifest.validation, TestItem))
        validation = LabeledQuestions(
            tuple(item.question for item in validation_items),
            tuple(item.gold for item in validation_items),
            tuple(item.question.label or item.gold for item in validation_items),
            tuple(item.teacher_answer for item in validation_items),
        )
    else:
        holdout_size = spec.settings.hyperparameters.get_holdout_size(len(usable))
        usable, validation_rationales = _split_validation(usable, holdout_size, spec.seed)
        validation = LabeledQuestions(
            tuple(item.question for item in validation_rationales),
            tuple(_gold_or_vote(item) or "" for item in validation_rationales),
            tuple(item.label or "" for item in validation_rationales),
            tuple(item.vote.answer for item in validation_rationales),
            tuple((*item.positives, *item.negatives) for item in validation_rationales),
        )
    if not usable or not validation.questions:
        raise Invalid(
            f"the training file leaves {len(usable)} questions to train and "
            f"{len(validation.questions)} to validate on; give it more lines with labels",
            param="training_file",
        )
    settings = spec.settings
    examples = tuple(make_example(item, settings) for item in usable)
    questions = tuple(item.question for item in usable)
    contradicting = sum(len(item.positives) for item in usable) - sum(
        len(example.positives) for example in examples
    )
    return TrainingDataset(manifest, examples, questions, validation, test, revision, contradicting)


def _check_training_file(manifest: RationaleManifest, spec: JobSpec) -> None:
    """File ids are digests of content; an old set without them is accepted."""
    if manifest.training_file not in (None, spec.training_file):
        raise Invalid(
            f"rationale set {manifest.id} was assembled for training file "
            f"{manifest.training_file}, not for {spec.training_file}: train on that file, or let "
            "a new job assemble a set for this one",
            param="training_file",
            code="other_training_file",
        )


def make_example(item: RationaleItem, settings: MethodSpec) -> TrainingExample:
    """What training may know of `item`: where the vote is the label, no gold label. A student that
    answers behind its rationale learns none that argues for another answer, unless it is to learn
    whatever the teacher said."""
    is_voted = settings.label_mode == "llm" or item.gold is None
    right = item.vote.answer if is_voted else item.gold
    positives, answers_apart = item.positives, settings.student.answers == "label"
    if not answers_apart and settings.rationales.positive_rule != "all":
        positives = tuple(r for r in positives if r.answer in (None, right))
    return TrainingExample(
        id=item.question.id,
        text=format_question(settings.task, item.question),
        label=item.label or "",
        gold=right or "",
        positives=positives,
        negatives=item.negatives,
        choices=item.question.choices,
        is_sure=answers_apart or not is_voted or _is_clear(item.vote),
    )


def _is_clear(vote: Vote) -> bool:
    """Whether four of five outputs, and at least three, have the vote's answer."""
    count = vote.counts.get(vote.answer or "", 0)
    n_outputs = sum(vote.counts.values()) + vote.unparseable
    return count >= MIN_CLEAR_VOTES and count >= MIN_CLEAR_SHARE * n_outputs


def _gold_or_vote(item: RationaleItem) -> str | None:
    """Canonical gold label, or the vote where the task has no gold labels."""
    return item.gold if item.gold is not None else item.vote.answer


def _split_validation(
    items: Sequence[RationaleItem], size: int, seed: int
) -> tuple[list[RationaleItem], list[RationaleItem]]:
    order = list(range(len(items)))
    random.Random(f"{seed}/validation").shuffle(order)
    validation_indices = set(order[:size])
    train = [item for index, item in enumerate(items) if index not in validation_indices]
    return train, [items[index] for index in sorted(validation_indices)]
