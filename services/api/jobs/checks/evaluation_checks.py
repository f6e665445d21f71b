"""Checks of what a job is to measure of its finished student."""

from __future__ import annotations

from collections.abc import Collection

from qcrd.errors import Invalid
from qcrd.method.training.objectives import get_objective
from qcrd.questions.label_checks import format_names
from qcrd.records.specs.spec import JobSpec, MethodName


def check_evaluation(spec: JobSpec, teachers: Collection[str]) -> None:
    """`Invalid` for what this student has no outputs for, and a fallback that nobody is."""
    evaluation, path = spec.settings.evaluation, f"method.{spec.method}"
    answers_apart = not get_objective(spec.method, spec.settings.student.answers).says_both
    if evaluation.samples and (answers_apart or spec.method is MethodName.SINGLE_TASK):
        param = f"{path}.evaluation.samples"
        raise Invalid(
            f"`{param}`: only a student that answers behind its rationale has outputs that differ "
            f"enough to vote (`{path}.student.answers: reasoned`); leave it out",
            param=param,
        )
    fallback = evaluation.fallback
    if fallback is None:
        return
    # A job that imports its outputs names no teacher that was looked for.
    teacher = fallback.teacher or spec.settings.teacher
    if teacher not in teachers:
        param = f"{path}.evaluation.fallback.teacher"
        raise Invalid(
            f"`{param}`: no teacher is named {teacher!r}; this server has "
            f"{format_names(teachers)} (setting QCRD_TEACHERS)",
            param=param,
            code="unknown_teacher",
        )
