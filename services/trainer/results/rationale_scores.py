"""Judge scores of rationales, written to the store for the rationale set's pages."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

from qcrd.method.judge.model import JudgeBackend
from qcrd.method.prompts import format_question
from qcrd.method.training.trainer import Trainer
from qcrd.records.rationale_annotations import (
    Polarity,
    RationaleScore,
    RationaleScoreManifest,
    Revision,
)
from qcrd.records.rationales import Rationale, RationaleItem, RationaleManifest, RationaleSource
from qcrd.records.specs.task import TaskSpec
from qcrd.runtime import keys
from qcrd.runtime.storage import rationale_edits
from qcrd.runtime.storage.json_lines import read_lines, write_lines
from qcrd.runtime.storage.store import Store, write_record

RATIONALES_PER_CALL = 1024
"""Rationales per call to the judge, and so in memory: what its client sends in one request."""

RationaleToScore = tuple[str, Polarity, Rationale]
"""A question as the judge reads it, and one rationale of it."""


def write_scores(
    store: Store,
    job_id: str,
    manifest: RationaleManifest,
    revision: Revision,
    task: TaskSpec,
    trainer: Trainer,
) -> None:
    """Write the scores, their manifest last; nothing when the method has no judge. Excluded
    rationales are scored too, and the last iteration's student negatives unless the training was
    resumed after it."""
    judge = trainer.judge
    if judge is None:
        return
    key = keys.job_scores_key(job_id)
    to_score = itertools.chain(
        _iter_set_rationales(store, manifest, revision, task), _iter_student_rationales(trainer)
    )
    write_lines(store, key, _iter_scores(judge, to_score))
    judged_record = RationaleScoreManifest(
        job_id=job_id,
        version=trainer.judge_version,
        scores=key,
        revision=revision.id,
        created_at=time.time(),
    )
    write_record(store, keys.rationale_scores_key(manifest.id, job_id), judged_record)


def _iter_set_rationales(
    store: Store, manifest: RationaleManifest, revision: Revision, task: TaskSpec
) -> Iterator[RationaleToScore]:
    corrections = rationale_edits.fold_edits(revision.edits)
    for key in manifest.shards:
        for item in read_lines(store, key, RationaleItem):
            text = format_question(task, item.question)
            for name, polarity, rationale in rationale_edits.iter_rationales(item):
                yield (
                    text,
                    polarity,
                    rationale_edits.apply_correction(rationale, corrections.get(name)),
                )


def _iter_student_rationales(trainer: Trainer) -> Iterator[RationaleToScore]:
    for example in trainer.examples:
        kept = trainer.negative_supply.split(example, trainer.last_samples)
        for polarity, samples in zip((Polarity.POSITIVE, Polarity.NEGATIVE), kept, strict=True):
            for rationale in samples:
                yield example.text, polarity, rationale


def _iter_scores(
    judge: JudgeBackend, to_score: Iterator[RationaleToScore]
) -> Iterator[RationaleScore]:
    while batch := list(itertools.islice(to_score, RATIONALES_PER_CALL)):
        scores = judge.score([(text, rationale.text) for text, _, rationale in batch])
        for (_, polarity, rationale), score in zip(batch, scores, strict=True):
            is_teacher = rationale.source is RationaleSource.TEACHER
            yield RationaleScore(
                rationale_id=rationale.id,
                question_id=rationale.question_id,
                polarity=polarity,
                source=rationale.source,
                score=score,
                text=None if is_teacher else rationale.text,
            )
