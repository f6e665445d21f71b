"""Errors of the student server, beside the teacher's and with the same body.

TeacherError
├── StudentNotFound           404 model_not_found   no student of this name is published
├── StudentNotLoadable        424 model_not_loaded  its files are no model: retrying does not help
├── JudgeNotUseful            400 judge_not_useful  no judge can choose among this student's answers
├── JudgeUnavailable          503 judge_unavailable the discriminator, which keeps it, is away
└── ModelLoading
    ├── QueueFull             503 loading           too many requests are waiting for models to load
    └── StoreUnavailable      503 loading           its files cannot be read now
"""

from __future__ import annotations

from services.teacher.errors import ModelLoading, TeacherError


class StudentNotFound(TeacherError):
    status = 404
    error_type = "model_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(f"`model`: there is no published model {name[:80]!r}")


class StudentNotLoadable(TeacherError):
    status = 424
    error_type = "model_not_loaded"


class JudgeNotUseful(TeacherError):
    status = 400
    error_type = "judge_not_useful"


class JudgeUnavailable(TeacherError):
    status = 503
    error_type = "judge_unavailable"
    retry_after = 5


class QueueFull(ModelLoading):
    retry_after = 5


class StoreUnavailable(ModelLoading):
    retry_after = 5
