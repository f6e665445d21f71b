"""Fields of a spec that none of its methods reads: who sets one expects that it does something."""

from __future__ import annotations

from collections.abc import Sequence

from qcrd.errors import Invalid
from qcrd.method.training.objectives import OBJECTIVES, Objective
from qcrd.records.specs.spec import JobSpec
from qcrd.records.specs.training_spec import NegativeSource


def check_unread_fields(spec: JobSpec, also_read_by: Sequence[str] = ()) -> None:
    """`Invalid` for another contrast or a control without negatives, for a judge's control without
    a judge, for a choice of rationales without any, and for own samples that are not kept.
    `also_read_by`: methods of a study whose rows have these settings too."""
    settings, path = spec.settings, f"method.{spec.method}"
    objectives = [OBJECTIVES[row] for row in (spec.method, *settings.baselines, *also_read_by)]
    if settings.loss.contrast != "margin" and not any(o.uses_negatives for o in objectives):
        raise _make_error(f"{path}.loss.contrast", "negatives", "dss+positives+negatives")
    if settings.discriminator.control != "none" and not any(o.uses_judge for o in objectives):
        raise _make_error(f"{path}.discriminator.control", "a judge", "qcrd")
    if settings.negatives.control != "none" and not any(o.uses_negatives for o in objectives):
        raise _make_error(f"{path}.negatives.control", "negatives", "dss+positives+negatives")
    if settings.positives.select != "all" and all(o.max_positives == 0 for o in objectives):
        raise _make_error(f"{path}.positives.select", "rationales", "dss+positives")
    if "keep" in settings.positives.model_fields_set and settings.positives.select == "all":
        raise Invalid(
            f"`{path}.positives.keep` is only read with `{path}.positives.select: difficulty`: "
            "leave it out, or add that",
            param=f"{path}.positives.keep",
            code="unread_field",
        )
    _check_own_samples(spec, objectives)
    _check_control(spec)


def _check_own_samples(spec: JobSpec, objectives: Sequence[Objective]) -> None:
    """`Invalid` where a student is to learn its own right samples and none are kept."""
    settings, path = spec.settings, f"method.{spec.method}"
    negatives = settings.negatives
    if settings.positives.source == "student":
        param = f"{path}.positives.source"
        if not any(o.uses_negatives for o in objectives):
            raise _make_error(param, "samples of the student", "dss+positives+negatives")
        if settings.positives.select != "all":
            raise Invalid(
                f"`{path}.positives.select` chooses among the teacher's rationales, of which "
                f"`{path}.positives.source: student` teaches none: leave one of the two out",
                param=f"{path}.positives.select",
                code="unread_field",
            )
        is_sorted = settings.student.answers != "label" or negatives.filter == "wrong_only"
        if not (negatives.keep_right and is_sorted and _samples_student(spec)):
            raise Invalid(
                f"`{param}`: no sample is kept for being right: set "
                f"`{path}.negatives.keep_right: true`, `{path}.negatives.filter: wrong_only` and "
                f"`{path}.negatives.source: student_lag`",
                param=param,
                code="no_own_samples",
            )


def _check_control(spec: JobSpec) -> None:
    """`Invalid` where another question's negative would be taken for a right one, or would take the
    place of a part of the negatives alone."""
    negatives, path = spec.settings.negatives, f"method.{spec.method}.negatives"
    if negatives.control == "none":
        return
    if negatives.keep_right:
        raise Invalid(
            f"`{path}.control`: right samples of another question are right for that one alone: "
            f"leave out `{path}.keep_right`",
            param=f"{path}.control",
            code="control_contradicted",
        )
    if NegativeSource.TEACHER_MINORITY in negatives.source:
        raise Invalid(
            f"`{path}.control` replaces samples of the student, and not the teacher's minority: "
            f"take that out of `{path}.source`",
            param=f"{path}.control",
            code="control_contradicted",
        )


def _samples_student(spec: JobSpec) -> bool:
    return bool(set(spec.settings.negatives.source) - {NegativeSource.TEACHER_MINORITY})


def _make_error(param: str, what: str, method: str) -> Invalid:
    return Invalid(
        f"`{param}` is only read by a method with {what}, such as `{method}`: leave it out, or "
        "take such a method",
        param=param,
        code="unread_field",
    )
