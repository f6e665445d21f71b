"""Loads a rationale set as training examples, with the held-out validation and test questions."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from qcrd.errors import Invalid
from qcrd.method.packed_rationales import PackedRationales
from qcrd.method.prompts import format_question
from qcrd.method.training.training_example import TrainingExample
from qcrd.records.rationale_annotations import Correction, Revision
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

_HeldOut = tuple[Question, str, str, str | None, Sequence[Rationale]]
"""A question to validate on, as the columns of `LabeledQuestions` have it."""
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
    rationales: tuple[Sequence[Rationale], ...] = ()
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
    manifest = read_record(store, keys.rationale_manifest_key(set_id), RationaleManifest)
    _check_training_file(manifest, spec)
    usable = partial(_iter_usable, store, manifest, rationale_edits.fold_edits(revision.edits))
    held_out: Collection[int] = ()
    if not manifest.validation:
        n_usable = sum(1 for _ in usable())
        holdout_size = spec.settings.hyperparameters.get_holdout_size(n_usable)
        held_out = _draw_validation(n_usable, holdout_size, spec.seed)
    examples, questions, held = list[TrainingExample](), list[Question](), list[_HeldOut]()
    contradicting = 0
    for place, item in enumerate(usable()):
        if place in held_out:
            held.append(_hold_out(item))
            continue
        example = make_example(item, spec.settings)
        contradicting += len(item.positives) - len(example.positives)
        examples.append(example)
        questions.append(item.question)
    if manifest.validation:
        held = [
            (item.question, item.gold, item.question.label or item.gold, item.teacher_answer, ())
            for item in read_lines(store, manifest.validation, TestItem)
        ]
    if not examples or not held:
        raise Invalid(
            f"the training file leaves {len(examples)} questions to train and "
            f"{len(held)} to validate on; give it more lines with labels",
            param="training_file",
        )
    return TrainingDataset(
        manifest,
        tuple(examples),
        tuple(questions),
        LabeledQuestions(*zip(*held, strict=True)),
        tuple(read_lines(store, manifest.test, TestItem)) if manifest.test else (),
        revision,
        contradicting,
    )


def _iter_usable(
    store: Store, manifest: RationaleManifest, corrections: Mapping[str, Correction]
) -> Iterator[RationaleItem]:
    """The items that have something to be trained on, as they are after their edits."""
    for key in manifest.shards:
        for item in read_lines(store, key, RationaleItem):
            corrected = rationale_edits.apply_corrections(item, corrections)
            if corrected.label is not None and _gold_or_vote(corrected) is not None:
                yield corrected


def _hold_out(item: RationaleItem) -> _HeldOut:
    gold = _gold_or_vote(item) or ""
    rationales = PackedRationales((*item.positives, *item.negatives))
    return item.question, gold, item.label or "", item.vote.answer, rationales


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
        positives=PackedRationales(positives),
        negatives=PackedRationales(item.negatives),
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


def _draw_validation(count: int, size: int, seed: int) -> Collection[int]:
    """The places of the items to validate on, among `count`."""
    order = list(range(count))
    random.Random(f"{seed}/validation").shuffle(order)
    return frozenset(order[:size])
