"""Address of the server of published students, and its limits."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from qcrd.runtime.settings import EnvironmentSettings, Port


class StudentsSettings(EnvironmentSettings, env_prefix="QCRD_STUDENTS_"):
    host: str = "127.0.0.1"
    port: Port = 8070
    loaded: Annotated[int, Field(ge=1)] = 2
    """Students in memory at once."""
    queue: Annotated[int, Field(ge=1)] = 64
    """Requests that may wait for students to be loaded; one more gets a 503."""
    slots: Annotated[int, Field(ge=1)] = 8
    """Sequences that one student generates at once."""
