"""The stage `assembling`: writes a rationale set from questions and teacher outputs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
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
from qcrd.questions.labelling import AnswerReading, OutputsByQuestion
from qcrd.questions.readable_outputs import check_readable
from qcrd.records.job import Stage
from qcrd.records.rationales import RationaleItem, TestItem
from qcrd.records.reports.serving import TeacherServing
from qcrd.runtime.jobs.stage_context import NextStage, StageContext
from qcrd.runtime.redis.asking_turns import AskingTurns
from qcrd.runtime.redis.generation_buffer import GenerationBuffer
from qcrd.runtime.redis.teacher_notes import TeacherNotes
from services.api.assembling import sampling_plan, shared_set
from services.api.assembling.backoff_policy import BackoffPolicy
from services.api.assembling.batches.choose import asks_by_batch
from services.api.assembling.batches.waiting import check_still_out
from services.api.assembling.generate import generate_outputs
from services.api.assembling.spill.database import SpillDatabase
from services.api.assembling.spill.imports import spill_outputs
from services.api.assembling.spill.questions import SpilledDuplicates, SpilledRows, Split
from services.api.assembling.teacher.outages import check_teacher_is_back, raise_dated
from services.api.assembling.writing.set_writer import SetWriter
from services.api.assembling.writing.summary import emit_summary, warn
from services.api.files import service as files
from services.api.settings import TeacherConfig


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
    training: SpilledRows
    validation: SpilledRows
    test: SpilledRows

    @classmethod
    def load(cls, stage: StageContext, database: SpillDatabase) -> DatasetSplits:
        """The job's files, which may be larger than memory."""
        spec = stage.job.spec
        loaded = {split: SpilledRows(database, split) for split in Split}
        for split, file_id in (
            (Split.TRAINING, spec.training_file),
            (Split.VALIDATION, spec.validation_file),
            (Split.TEST, spec.test_file),
        ):
            if file_id:
                rows = files.iter_rows(
                    stage.store,
                    file_id,
                    spec.settings.task.fields,
                    first_lines=SpilledDuplicates(database),
                )
                loaded[split].fill(rows)
        return cls(loaded[Split.TRAINING], loaded[Split.VALIDATION], loaded[Split.TEST])


def assemble(
    stage: StageContext,
    buffer: GenerationBuffer,
    teachers: Mapping[str, TeacherConfig],
    backoff: BackoffPolicy | None = None,
    notes: TeacherNotes | None = None,
    turns: AskingTurns | None = None,
) -> NextStage:
    """Assemble the job's set. A repeated run writes the same set, from the cached outputs. `notes`
    has what other jobs found out of the teachers; with `turns`, no two jobs ask for the same at
    once. What there is of questions and outputs is on disk: the memory that it takes does not grow
    with them."""
    spec = stage.job.spec
    if spec.knowledge_of is not None:
        return shared_set.take_shared_set(stage, spec.knowledge_of)
    if spec.after is not None:
        shared_set.wait_for_set(stage, spec.after)
    if (teacher := teachers.get(spec.settings.teacher)) is not None:
        with raise_dated(stage):  # before files are read, which may be large
            asyncio.run(check_still_out(stage.job, stage.store, buffer, teacher))
            if stage.job.backoffs and sampling_plan.asks_teacher(spec):
                # It waits: another job gets this worker at once while that is so.
                asyncio.run(check_teacher_is_back(spec.settings.teacher, teacher))
    with _take_turn(stage, turns, teacher), SpillDatabase() as database:
        splits = DatasetSplits.load(stage, database)
        held_out = {"validation": splits.validation, "test": splits.test}
        _warn_of_data(stage, iter_file_warnings(spec.settings, splits.training, held_out))
        outputs = _collect_outputs(
            stage, database, splits, buffer, teachers, backoff or BackoffPolicy(), notes
        )
        stage.raise_if_stopping()
        set_id = _write_set(stage, splits, outputs)
    stage.report_progress(100.0)
    return NextStage(Stage.TRAINING, {"rationale_set": set_id})


def _take_turn(
    stage: StageContext, turns: AskingTurns | None, teacher: TeacherConfig | None
) -> AbstractContextManager[None]:
    """Nothing to wait for where no teacher is asked."""
    spec = stage.job.spec
    if turns is None or teacher is None or not sampling_plan.asks_teacher(spec):
        return nullcontext()
    return shared_set.asking_turn(stage, turns, by_batch=asks_by_batch(spec, teacher))


def _write_set(stage: StageContext, splits: DatasetSplits, outputs: TeacherOutputs) -> str:
    writer, contradictions = SetWriter(stage), _Contradictions()
    writer.write_items(_build_items(stage, splits, outputs, contradictions))
    counts = writer.tally.make_counts(reused=outputs.reused).model_copy(
        update={"refused": outputs.refused, "teacher_tokens": outputs.training_tokens}
    )
    writer.check(lambda: check_readable(stage.job.spec, splits.training, outputs.training, counts))
    settings = stage.job.spec.settings
    _warn_of_data(
        stage, find_contradictions(splits.training, contradictions.first, contradictions.count)
    )
    _warn_of_data(stage, find_cut_traces(splits.training, outputs.training, settings))
    writer.write_manifest(
        counts,
        outputs.serving,
        validation=_build_validation_items(stage, splits) if len(splits.validation) else None,
        test=_build_test_items(stage, splits, outputs) if len(splits.test) else None,
    )
    emit_summary(stage, writer.tally, counts)
    return writer.set_id


@dataclass
class _Contradictions:
    """How many there are, and the first."""

    first: labelling.Contradiction | None = None
    count: int = 0

    def add(self, found: list[labelling.Contradiction]) -> None:
        self.count += len(found)
        self.first = self.first or next(iter(found), None)


def _build_items(
    stage: StageContext,
    splits: DatasetSplits,
    outputs: TeacherOutputs,
    contradictions: _Contradictions,
) -> Iterator[RationaleItem]:
    for row in splits.training:
        stage.raise_if_stopping()
        found: list[labelling.Contradiction] = []
        yield labelling.build_item(
            row.question,
            outputs.training.get(row.question.id, ()),
            stage.job.spec.settings,
            outputs.readings.get(row.question.id, ()),
            found,
        )
        contradictions.add(found)


def _collect_outputs(
    stage: StageContext,
    database: SpillDatabase,
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
        own = spill_outputs(database, tuple, splits.training, splits.test, spec.settings)
        return TeacherOutputs({}, own.test)
    if spec.settings.rationales.import_file is not None:
        return _import_outputs(stage, database, splits, spec.settings.rationales.import_file)
    name = spec.settings.teacher
    if name not in teachers:
        raise Invalid(
            f"no teacher is named {name!r} here (setting QCRD_TEACHERS of the worker)",
            param=f"method.{spec.method}.teacher",
            code="unknown_teacher",
        )
    _warn_of_data(stage, find_unused_outputs(splits.training.with_outputs, spec.method))
    generated = generate_outputs(
        stage, buffer, teachers[name], database, backoff=backoff, notes=notes
    )
    return TeacherOutputs(
        generated.outputs,
        generated.outputs,
        generated.reused,
        generated.refused,
        generated.training_tokens,
        generated.serving,
    )


def _import_outputs(
    stage: StageContext, database: SpillDatabase, splits: DatasetSplits, file_id: str
) -> TeacherOutputs:
    settings = stage.job.spec.settings
    read_imported = partial(
        files.iter_rows, stage.store, file_id, settings.task.fields, with_repeats=True
    )
    imported = spill_outputs(
        database,
        lambda: read_imported(first_lines=SpilledDuplicates(database)),
        splits.training,
        splits.test,
        settings,
    )
    answered, tested = len(imported.training), len(imported.test)
    stage.emit(
        f"imported teacher outputs for {answered} of {len(splits.training)} training "
        f"and {tested} of {len(splits.test)} test questions",
        training=answered,
        test=tested,
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


def _build_validation_items(stage: StageContext, splits: DatasetSplits) -> Iterator[TestItem]:
    settings = stage.job.spec.settings
    for row in splits.validation:
        yield labelling.build_holdout_item(row.question, None, settings)


def _build_test_items(
    stage: StageContext, splits: DatasetSplits, outputs: TeacherOutputs
) -> Iterator[TestItem]:
    settings = stage.job.spec.settings
    for row in splits.test:
        texts = outputs.test.get(row.question.id)
        yield labelling.build_holdout_item(row.question, texts, settings)


def _warn_of_data(stage: StageContext, warnings: Iterable[DataWarning]) -> None:
    for each in warnings:
        warn(stage, each.message, once=each.key, **each.data)
