"""What a failed request to a teacher may have cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from qcrd.errors import QcrdError
from services.api.assembling.teacher.teacher_client import StreamProgress
from services.api.assembling.teacher.teacher_errors import (
    TeacherGenerationFailed,
    TeacherOverloaded,
    TeacherUnreachable,
)


@contextmanager
def track_cost(progress: StreamProgress) -> Iterator[None]:
    """Set `progress.is_free` where the error says that nothing was generated. An error after the
    last token costs nothing more than the answer, which is there: it is suppressed."""
    try:
        yield
    except (TeacherUnreachable, TeacherGenerationFailed, TeacherOverloaded) as error:
        if progress.completions:
            return
        is_refusal = isinstance(error, TeacherOverloaded)
        was_reached = not is_refusal and getattr(error, "was_reached", True)
        progress.is_free = not was_reached and not progress.streamed_tokens
        raise
    except QcrdError:
        progress.is_free = not progress.streamed_tokens
        raise
