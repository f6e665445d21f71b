"""The stage `assembling`: questions and teacher outputs in, a rationale set out, manifest last."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from qcrd.errors import Invalid
from qcrd.records.job import Stage
from qcrd.records.rationales import (
    Question,
    RationaleCounts,
    RationaleItem,
    RationaleManifest,
    TestItem,
)
from qcrd.runtime import keys
from qcrd.runtime.jobs.stage_context import NextStage, StageContext
from qcrd.runtime.redis.generation_buffer import GenerationBuffer
from qcrd.runtime.storage.store import Store, write_lines, write_record
from services.api.assembling import labelling, sampling_plan, shared_set
from services.api.assembling.generate import generate
from services.api.assembling.imported_outputs import match
from services.api.assembling.labelling import Outputs
from services.api.assembling.sampler import Pace
from services.api.files import service as files
from services.api.files.questions import Row
from services.api.rationale_sets import index
from services.api.settings import TeacherConfig

SHARD = 1000
"""Questions per shard: about 1 MB of text with five rationales each."""
MANY_UNPARSEABLE = 0.2
"""Share of the outputs above which the prompt, the stop sequence or `max_new_tokens` is suspect."""


@dataclass(frozen=True)
class Given:
    """What is known of the teacher's outputs; `test` lacks the questions it was not asked."""

    training: Outputs
    test: Outputs
    reused: int = 0


@dataclass(frozen=True)
class Rows:
    training: list[Row]
    validation: list[Row]
    test: list[Row]


def assemble(
    stage: StageContext,
    ledger: GenerationBuffer,
    teachers: Mapping[str, TeacherConfig],
    pace: Pace | None = None,
) -> NextStage:
    """Done again it writes the same set again, from outputs that are there already."""
    spec, store = stage.job.spec, stage.store
    if spec.knowledge_of is not None:
        return shared_set.take(stage, spec.knowledge_of)
    rows = Rows(
        training=files.rows(store, spec.training_file),
        validation=files.rows(store, spec.validation_file) if spec.validation_file else [],
        test=files.rows(store, spec.test_file) if spec.test_file else [],
    )
    _warn_of_overlap(stage, rows)
    given = _outputs(stage, rows, ledger, teachers, pace or Pace())
    stage.raise_if_stopping()
    items = [
        labelling.item(row.question, given.training.get(row.question.id, ()), spec.settings)
        for row in rows.training
    ]
    counts = labelling.count(items, reused=given.reused)
    set_id = _write(stage, items, _held_back(stage, rows, given), counts)
    _tell(stage, items, counts)
    stage.report_progress(100.0)
    return NextStage(Stage.TRAINING, {"rationale_set": set_id})


def _outputs(
    stage: StageContext,
    rows: Rows,
    ledger: GenerationBuffer,
    teachers: Mapping[str, TeacherConfig],
    pace: Pace,
) -> Given:
    spec = stage.job.spec
    if not sampling_plan.needs_outputs(spec):
        stage.emit("this method reads labels only: no teacher is asked")
        return Given({}, {})
    if spec.settings.rationales.import_file is not None:
        return _imported(stage, rows, spec.settings.rationales.import_file)
    name = spec.settings.teacher
    if name not in teachers:
        raise Invalid(
            f"no teacher is named {name!r} here (setting QCRD_TEACHERS of the worker)",
            param=f"method.{spec.method}.teacher",
            code="unknown_teacher",
        )
    generated = generate(
        stage,
        ledger,
        teachers[name],
        training=_questions(rows.training),
        test=_questions(rows.test),
        pace=pace,
    )
    return Given(generated.training, generated.test, generated.reused)


def _imported(stage: StageContext, rows: Rows, file_id: str) -> Given:
    found = match(files.rows(stage.store, file_id), rows.training, rows.test)
    stage.emit(
        f"imported teacher outputs for {len(found.training)} of {len(rows.training)} training "
        f"and {len(found.test)} of {len(rows.test)} test questions",
        training=len(found.training),
        test=len(found.test),
        unanswered=found.unanswered,
        unused=found.unused,
    )
    if found.unanswered or found.unused:
        _warn(
            stage,
            f"{found.unanswered} training questions have no imported output, and "
            f"{found.unused} imported lines belong to no question",
            unanswered=found.unanswered,
            unused=found.unused,
        )
    return Given(found.training, found.test)


def _held_back(stage: StageContext, rows: Rows, given: Given) -> dict[str, list[TestItem]]:
    settings = stage.job.spec.settings
    return {
        "validation": [
            labelling.held_back(row.question, None, settings) for row in rows.validation
        ],
        "test": [
            labelling.held_back(row.question, given.test.get(row.question.id), settings)
            for row in rows.test
        ],
    }


def _write(
    stage: StageContext,
    items: Sequence[RationaleItem],
    held_back: Mapping[str, Sequence[TestItem]],
    counts: RationaleCounts,
) -> str:
    """The set's id is the job's, so that an attempt after a crash replaces what it left."""
    store = stage.store
    set_id = f"set-{keys.digest(stage.job.id)}"
    shards = tuple(_shards(store, set_id, items))
    batches = (items[start : start + SHARD] for start in range(0, len(items), SHARD))
    index.write(store, set_id, index.build(batches))
    written = {
        name: _lines(store, keys.rationale_holdout_key(set_id, name), lines)
        for name, lines in held_back.items()
    }
    manifest = RationaleManifest(
        id=set_id,
        shards=shards,
        counts=counts,
        test=written["test"],
        validation=written["validation"],
        created_at=time.time(),
        training_file=stage.job.spec.training_file,
        job_id=stage.job.id,
        teacher=stage.job.spec.settings.teacher
        if sampling_plan.asks_teacher(stage.job.spec)
        else None,
    )
    write_record(store, keys.rationale_manifest_key(set_id), manifest)
    return set_id


def _shards(store: Store, set_id: str, items: Sequence[RationaleItem]) -> Iterable[str]:
    for number, start in enumerate(range(0, len(items), SHARD)):
        key = keys.rationale_shard_key(set_id, number)
        write_lines(store, key, items[start : start + SHARD])
        yield key


def _lines(store: Store, key: str, lines: Sequence[TestItem]) -> str | None:
    if not lines:
        return None
    write_lines(store, key, lines)
    return key


def _tell(stage: StageContext, items: Sequence[RationaleItem], counts: RationaleCounts) -> None:
    stage.emit(
        f"{counts.outputs} outputs of {counts.questions} questions: {counts.positives} positive "
        f"and {counts.negatives} negative rationales, {counts.unparseable} unparseable",
        **labelling.shares(counts),
    )
    if counts.outputs and counts.unparseable > MANY_UNPARSEABLE * counts.outputs:
        _warn(
            stage,
            f"{counts.unparseable} of {counts.outputs} outputs have no readable answer: compare "
            "some of them with the task's examples, `stop` and `max_new_tokens`",
            unparseable=counts.unparseable,
            outputs=counts.outputs,
        )
    unlabelled = sum(item.label is None for item in items)
    if unlabelled:
        _warn(stage, f"{unlabelled} questions have no label: nothing to train on there")


def _warn_of_overlap(stage: StageContext, rows: Rows) -> None:
    """Identical questions only; a paraphrase needs a judge."""
    trained_on = {row.question.id for row in rows.training}
    for name, other in (("validation", rows.validation), ("test", rows.test)):
        shared = sum(row.question.id in trained_on for row in other)
        if shared:
            _warn(stage, f"{shared} {name} questions are also training questions", shared=shared)


def _warn(stage: StageContext, message: str, **data: object) -> None:
    stage.events.append(stage.job.id, message, level="warn", data=dict(data))


def _questions(rows: Sequence[Row]) -> list[Question]:
    return [row.question for row in rows]
