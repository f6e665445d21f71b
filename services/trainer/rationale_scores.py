"""What a job's final judge says of every rationale of its set, for whoever looks at the set."""

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
from qcrd.records.spec import TaskSpec
from qcrd.runtime import keys
from qcrd.runtime.storage import rationale_edits
from qcrd.runtime.storage.store import Store, read_lines, write_lines, write_record

AT_ONCE = 1024
"""Rationales per call to the judge, and so in memory: what its client sends in one request."""

Said = tuple[str, Polarity, Rationale]
"""A question as the judge reads it, and one rationale of it."""


def keep(
    store: Store,
    job_id: str,
    manifest: RationaleManifest,
    revision: Revision,
    task: TaskSpec,
    trainer: Trainer,
) -> None:
    """Nothing when the method has no judge; the record beside the set, which tells of the scores,
    is written last. What is excluded is scored too; what the student's past self said is, for the
    last iteration, unless the training was resumed after that."""
    judge = trainer.judge
    if judge is None:
        return
    key = keys.job_scores_key(job_id)
    said = itertools.chain(_of_the_set(store, manifest, revision, task), _of_the_student(trainer))
    write_lines(store, key, _scored(judge, said))
    judged = RationaleScoreManifest(
        job_id=job_id,
        version=trainer.judge_version,
        scores=key,
        revision=revision.id,
        created_at=time.time(),
    )
    write_record(store, keys.rationale_scores_key(manifest.id, job_id), judged)


def _of_the_set(
    store: Store, manifest: RationaleManifest, revision: Revision, task: TaskSpec
) -> Iterator[Said]:
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


def _of_the_student(trainer: Trainer) -> Iterator[Said]:
    texts = {lesson.id: lesson.text for lesson in trainer.examples}
    for asked, samples in trainer.last_samples.items():
        for rationale in samples:
            yield texts[asked], Polarity.NEGATIVE, rationale


def _scored(judge: JudgeBackend, said: Iterator[Said]) -> Iterator[RationaleScore]:
    while batch := list(itertools.islice(said, AT_ONCE)):
        scores = judge.score([(text, rationale.text) for text, _, rationale in batch])
        for (_, polarity, rationale), score in zip(batch, scores, strict=True):
            ours = rationale.source is RationaleSource.TEACHER
            yield RationaleScore(
                rationale_id=rationale.id,
                question_id=rationale.question_id,
                polarity=polarity,
                source=rationale.source,
                score=score,
                text=None if ours else rationale.text,
            )
