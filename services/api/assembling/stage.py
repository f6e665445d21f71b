"""The stage `assembling`: writes a rationale set from questions and teacher outputs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from qcrd.errors import Invalid
from qcrd.questions import labelling
from qcrd.questions.data_warnings import (
    DataWarning,
    find_contradictions,
    find_cut_traces,
    find_unused_outputs,
    iter_file_warnings,
)
from qcrd.questions.imported_outputs import match_outputs
from qcrd.questions.labelling import AnswerReading, OutputsByQuestion
from qcrd.questions.readable_outputs import check_readable
from qcrd.questions.rows import QuestionRow
from qcrd.records.job import Stage
from qcrd.records.rationales import (
    Question,
    RationaleCounts,
    RationaleItem,
    RationaleManifest,
    TestItem,
)
from qcrd.records.reports.serving import TeacherServing
from qcrd.runtime import keys
from qcrd.runtime.jobs.stage_context import NextStage, StageContext
from qcrd.runtime.redis.generation_buffer import GenerationBuffer
from qcrd.runtime.redis.teacher_notes import TeacherNotes
from qcrd.runtime.storage.store import Store, write_lines, write_record
from services.api.assembling import sampling_plan, shared_set
from services.api.assembling.backoff_policy import BackoffPolicy
from services.api.assembling.batches.waiting import check_still_out
from services.api.assembling.generate import generate_outputs
from services.api.assembling.refusals import RowLocation
from services.api.assembling.summary import emit_summary, warn
from services.api.assembling.teacher.outages import raise_dated
from services.api.files import service as files
from services.api.rationale_sets import index
from services.api.settings import TeacherConfig

SHARD_SIZE = 1000
"""Questions per shard: about 1 MB of text with five rationales each."""


@dataclass(frozen=True)
class TeacherOutputs:
    """The teacher's outputs; `test` lacks the questions it was not asked."""

    training: OutputsByQuestion
    test: OutputsByQuestion
    reused: int = 0
    refused: int = 0
    training_tokens: int | None = None
    serving: TeacherServing | None = None
    readings: Mapping[str, tuple[AnswerReading, ...]] = field(default_factory=dict)
    """Where the answers of imported texts are; those of a teacher that was asked are marked."""


@dataclass(frozen=True)
class DatasetSplits:
    training: list[QuestionRow]
    validation: list[QuestionRow]
    test: list[QuestionRow]


def assemble(
    stage: StageContext,
    buffer: GenerationBuffer,
    teachers: Mapping[str, TeacherConfig],
    backoff: BackoffPolicy | None = None,
    notes: TeacherNotes | None = None,
) -> NextStage:
    """Assemble the job's set. A repeated run writes the same set, from the cached outputs. `notes`
    has what other jobs found out of the teachers."""
    spec, store = stage.job.spec, stage.store
    if spec.knowledge_of is not None:
        return shared_set.take_shared_set(stage, spec.knowledge_of)
    if spec.after is not None:
        shared_set.wait_for_set(stage, spec.after)
    if (teacher := teachers.get(spec.settings.teacher)) is not None:
        with raise_dated(stage):  # before files are read, which may be large
            asyncio.run(check_still_out(stage.job, stage.store, buffer, teacher))
    load = partial(files.load_rows, store, fields=spec.settings.task.fields)
    splits = DatasetSplits(
        training=load(spec.training_file),
        validation=load(spec.validation_file) if spec.validation_file else [],
        test=load(spec.test_file) if spec.test_file else [],
    )
    held_out = {"validation": splits.validation, "test": splits.test}
    _warn_of_data(stage, iter_file_warnings(spec.settings, splits.training, held_out))
    outputs = _collect_outputs(stage, splits, buffer, teachers, backoff or BackoffPolicy(), notes)
    stage.raise_if_stopping()
    contradictions: list[labelling.Contradiction] = []
    items = [
        labelling.build_item(
            row.question,
            outputs.training.get(row.question.id, ()),
            spec.settings,
            outputs.readings.get(row.question.id, ()),
            contradictions,
        )
        for row in splits.training
    ]
    counts = labelling.count_outcomes(items, reused=outputs.reused)
    counts = counts.model_copy(
        update={"refused": outputs.refused, "teacher_tokens": outputs.training_tokens}
    )
    check_readable(stage.job.spec, splits.training, outputs.training, counts)
    _warn_of_data(stage, find_contradictions(splits.training, contradictions))
    _warn_of_data(stage, find_cut_traces(splits.training, outputs.training, spec.settings))
    holdout = _build_holdout_items(stage, splits, outputs)
    set_id = _write_set(stage, items, holdout, counts, outputs.serving)
    emit_summary(stage, items, counts)
    stage.report_progress(100.0)
    return NextStage(Stage.TRAINING, {"rationale_set": set_id})


def _collect_outputs(
    stage: StageContext,
    splits: DatasetSplits,
    buffer: GenerationBuffer,
    teachers: Mapping[str, TeacherConfig],
    backoff: BackoffPolicy,
    notes: TeacherNotes | None,
) -> TeacherOutputs:
    spec = stage.job.spec
    if not sampling_plan.needs_teacher_outputs(spec):
        stage.emit("this method reads labels only: no teacher is asked")
        # A test file may have answers of its own, for the report's comparison.
        return TeacherOutputs({}, match_outputs((), (), splits.test, spec.settings).test)
    if spec.settings.rationales.import_file is not None:
        return _import_outputs(stage, splits, spec.settings.rationales.import_file)
    name = spec.settings.teacher
    if name not in teachers:
        raise Invalid(
            f"no teacher is named {name!r} here (setting QCRD_TEACHERS of the worker)",
            param=f"method.{spec.method}.teacher",
            code="unknown_teacher",
        )
    _warn_of_data(stage, find_unused_outputs(splits.training, spec.method))
    generated = generate_outputs(
        stage,
        buffer,
        teachers[name],
        training=_list_questions(splits.training),
        test=_list_questions(splits.test),
        locations=_locate_questions(splits),
        backoff=backoff,
        notes=notes,
    )
    return TeacherOutputs(
        generated.training,
        generated.test,
        generated.reused,
        generated.refused,
        generated.training_tokens,
        generated.serving,
    )


def _import_outputs(stage: StageContext, splits: DatasetSplits, file_id: str) -> TeacherOutputs:
    fields = stage.job.spec.settings.task.fields
    rows = files.load_rows(stage.store, file_id, fields, with_repeats=True)
    imported = match_outputs(rows, splits.training, splits.test, stage.job.spec.settings)
    stage.emit(
        f"imported teacher outputs for {len(imported.training)} of {len(splits.training)} training "
        f"and {len(imported.test)} of {len(splits.test)} test questions",
        training=len(imported.training),
        test=len(imported.test),
        unanswered=imported.unanswered,
        unused=imported.unused,
    )
    if imported.unanswered or imported.unused:
        warn(
            stage,
            f"{imported.unanswered} training questions have no imported output, and "
            f"{imported.unused} imported lines belong to no question",
            unanswered=imported.unanswered,
            unused=imported.unused,
        )
    if imported.mark is not None:
        stage.emit(
            f"{imported.run_on} imported outputs run on into a next question that begins "
            f"`{imported.mark}:` and are cut there",
            run_on=imported.run_on,
            mark=imported.mark,
        )
    return TeacherOutputs(imported.training, imported.test, readings=imported.readings)


def _build_holdout_items(
    stage: StageContext, splits: DatasetSplits, outputs: TeacherOutputs
) -> dict[str, list[TestItem]]:
    settings = stage.job.spec.settings
    return {
        "validation": [
            labelling.build_holdout_item(row.question, None, settings) for row in splits.validation
        ],
        "test": [
            labelling.build_holdout_item(row.question, outputs.test.get(row.question.id), settings)
            for row in splits.test
        ],
    }


def _write_set(
    stage: StageContext,
    items: Sequence[RationaleItem],
    holdout: Mapping[str, Sequence[TestItem]],
    counts: RationaleCounts,
    serving: TeacherServing | None,
) -> str:
    """Write the set under the job's id, so that an attempt after a crash replaces its remains."""
    store = stage.store
    set_id = f"set-{keys.digest(stage.job.id)}"
    shards = tuple(_write_shards(store, set_id, items))
    batches = (items[start : start + SHARD_SIZE] for start in range(0, len(items), SHARD_SIZE))
    index.write_index(store, set_id, index.build_index(batches))
    holdout_keys = {
        name: _write_holdout_items(store, keys.rationale_holdout_key(set_id, name), lines)
        for name, lines in holdout.items()
    }
    manifest = RationaleManifest(
        id=set_id,
        shards=shards,
        counts=counts,
        test=holdout_keys["test"],
        validation=holdout_keys["validation"],
        created_at=time.time(),
        training_file=stage.job.spec.training_file,
        job_id=stage.job.id,
        teacher=stage.job.spec.settings.teacher
        if sampling_plan.asks_teacher(stage.job.spec)
        else None,
        words=labelling.measure_lengths(items),
        serving=serving,
    )
    write_record(store, keys.rationale_manifest_key(set_id), manifest)
    return set_id


def _write_shards(store: Store, set_id: str, items: Sequence[RationaleItem]) -> Iterable[str]:
    for number, start in enumerate(range(0, len(items), SHARD_SIZE)):
        key = keys.rationale_shard_key(set_id, number)
        write_lines(store, key, items[start : start + SHARD_SIZE])
        yield key


def _write_holdout_items(store: Store, key: str, items: Sequence[TestItem]) -> str | None:
    if not items:
        return None
    write_lines(store, key, items)
    return key


def _warn_of_data(stage: StageContext, warnings: Iterable[DataWarning]) -> None:
    for each in warnings:
        warn(stage, each.message, once=each.key, **each.data)


def _list_questions(rows: Sequence[QuestionRow]) -> list[Question]:
    return [row.question for row in rows]


def _locate_questions(splits: DatasetSplits) -> dict[str, RowLocation]:
    """The line of each question by its id; one in both files is asked as a training question."""
    located = {row.question.id: RowLocation("test_file", row.line_number) for row in splits.test}
    located |= {
        row.question.id: RowLocation("training_file", row.line_number) for row in splits.training
    }
    return located
