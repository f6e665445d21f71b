"""Prompts of a job that may not exist yet, one at a time: its files may be larger than memory."""

from __future__ import annotations

from collections.abc import Iterator

from qcrd.method.prompts import build_teacher_prompt
from qcrd.records.rationales import Question
from qcrd.records.spec import JobSpec
from qcrd.runtime.storage.store import Store
from services.api.assembling import sampling_plan
from services.api.files import service as files


def iter_prompts(store: Store, spec: JobSpec) -> Iterator[tuple[str, int]]:
    """Each prompt, and how many samples of it are wanted."""
    training, test = (_iter_questions(store, file) for file in (spec.training_file, spec.test_file))
    for question, samples in sampling_plan.iter_sample_counts(
        spec.settings.rationales, training, test
    ):
        yield build_teacher_prompt(spec.settings.task, question), samples


def _iter_questions(store: Store, file: str | None) -> Iterator[Question]:
    return (row.question for row in files.iter_rows(store, file)) if file else iter(())
