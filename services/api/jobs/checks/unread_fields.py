"""Fields of a spec that none of its methods reads: who sets one expects that it does something."""

from __future__ import annotations

from qcrd.errors import Invalid
from qcrd.method.training.objectives import OBJECTIVES
from qcrd.records.specs.spec import JobSpec


def check_unread_fields(spec: JobSpec) -> None:
    """`Invalid` for another contrast without negatives, and for a control without a judge."""
    settings, path = spec.settings, f"method.{spec.method}"
    objectives = [OBJECTIVES[row] for row in (spec.method, *settings.baselines)]
    if settings.loss.contrast != "margin" and not any(o.uses_negatives for o in objectives):
        raise _make_error(f"{path}.loss.contrast", "negatives", "dss+positives+negatives")
    if settings.discriminator.control != "none" and not any(o.uses_judge for o in objectives):
        raise _make_error(f"{path}.discriminator.control", "a judge", "qcrd")


def _make_error(param: str, what: str, method: str) -> Invalid:
    return Invalid(
        f"`{param}` is only read by a method with {what}, such as `{method}`: leave it out, or "
        "take such a method",
        param=param,
        code="unread_field",
    )
