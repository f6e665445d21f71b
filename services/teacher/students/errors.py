"""What the server of students says besides what the teacher says, in the same shape.

TeacherError
├── UnknownStudent     404 model_not_found      nothing of this name is published
├── StudentBroken      424 model_not_loaded     its files are no model: asking again does not help
└── Loading
    ├── QueueFull      503 loading              too many wait for students to be loaded
    └── StoreAway      503 loading              its files cannot be read now
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


class QueueFull(ModelLoading):
    retry_after = 5


class StoreUnavailable(ModelLoading):
    retry_after = 5
