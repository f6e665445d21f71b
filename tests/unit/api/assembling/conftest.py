"""What the tests of assembling start from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.fakes.scripted_teacher import ScriptedTeacher
from tests.unit.api.assembling.assembling_bench import Bench, MakeBench, adds


@pytest.fixture
def bench() -> Iterator[MakeBench]:
    teachers: list[ScriptedTeacher] = []

    def make(
        answer: Callable[[str, int], str] = adds, *, concurrency: int = 8, **script: Any
    ) -> Bench:
        teachers.append(ScriptedTeacher(answer, **script))
        return Bench(teachers[-1], concurrency)

    yield make
    for teacher in teachers:
        teacher.close()
