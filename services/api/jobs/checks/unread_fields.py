"""Fields of a spec that none of its methods reads: who sets one expects that it does something."""

from __future__ import annotations

from collections.abc import Sequence

from qcrd.errors import Invalid
from qcrd.method.training.objectives import OBJECTIVES, Objective
from qcrd.records.specs.spec import JobSpec


def check_unread_fields(spec: JobSpec) -> None:
    """`Invalid` for another contrast or a control without negatives, for a judge's control without
    a judge, for a choice of rationales without any, and for own samples that are not kept."""
    settings, path = spec.settings, f"method.{spec.method}"
    objectives = [OBJECTIVES[row] for row in (spec.method, *settings.baselines)]
    if settings.loss.contrast != "margin" and not any(o.uses_negatives for o in objectives):
        raise _make_error(f"{path}.loss.contrast", "negatives", "dss+positives+negatives")
    if settings.discriminator.control != "none" and not any(o.uses_judge for o in objectives):
        raise _make_error(f"{path}.discriminator.control", "a judge", "qcrd")
    if settings.negatives.control != "none" and not any(o.uses_negatives for o in objectives):
        raise _make_error(f"{path}.negatives.control", "negatives", "dss+positives+negatives")
    if settings.positives.select != "all" and all(o.max_positives == 0 for o in objectives):
        raise _make_error(f"{path}.positives.select", "rationales", "dss+positives")
    _check_own_samples(spec, objectives)


def _check_own_samples(spec: JobSpec, objectives: Sequence[Objective]) -> None:
    """`Invalid` where a student is to learn its own right samples and none are kept, and where a
    negative of another question would be taken for a right one."""
    settings, path = spec.settings, f"method.{spec.method}"
    negatives = settings.negatives
    if settings.positives.source == "student":
        param = f"{path}.positives.source"
        if not any(o.uses_negatives for o in objectives):
            raise _make_error(param, "samples of the student", "dss+positives+negatives")
        is_sorted = settings.student.answers != "label" or negatives.filter == "wrong_only"
        if not (negatives.keep_right and is_sorted):
            raise Invalid(
                f"`{param}`: no sample is kept for being right: set "
                f"`{path}.negatives.keep_right: true` and `{path}.negatives.filter: wrong_only`",
                param=param,
                code="no_own_samples",
            )
    if negatives.control != "none" and negatives.keep_right:
        raise Invalid(
            f"`{path}.negatives.control`: right samples of another question are right for that one "
            f"alone: leave out `{path}.negatives.keep_right`",
            param=f"{path}.negatives.control",
            code="control_contradicted",
        )


def _make_error(param: str, what: str, method: str) -> Invalid:
    return Invalid(
        f"`{param}` is only read by a method with {what}, such as `{method}`: leave it out, or "
        "take such a method",
        param=param,
        code="unread_field",
    )
