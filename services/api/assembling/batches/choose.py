"""Whether a job asks its teacher by batch."""

from __future__ import annotations

from qcrd.errors import Invalid
from qcrd.records.specs.spec import JobSpec
from services.api.settings import TeacherConfig


def asks_by_batch(spec: JobSpec, teacher: TeacherConfig) -> bool:
    """As the job says, or else its teacher's configuration. `Invalid` for a teacher that cannot."""
    said = spec.settings.rationales.batch
    if said and teacher.api != "openai":
        param = f"method.{spec.method}.rationales.batch"
        raise Invalid(
            f"`{param}`: teacher {spec.settings.teacher!r} speaks TGI's protocol, which has no "
            "batches: leave it out, or name a teacher with `api` openai",
            param=param,
            code="no_batches",
        )
    return teacher.batch if said is None else said
