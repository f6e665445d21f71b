"""A student's fallback at each OpenAI-compatible provider that is imitated, over real sockets: what
works for a job's questions works for the one that a student is unsure of.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from qcrd.records.specs.task import AnswerKind, TaskSpec
from qcrd.records.students.confidence import Confidence
from qcrd.records.students.fallback import Fallback
from qcrd.records.students.prompt_format import PROMPT_FORMAT_FILE, PromptFormat
from qcrd.runtime import keys
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from qcrd.runtime.settings import ModelSettings
from qcrd.runtime.storage.store import MemoryStore, write_record
from services.api.app import create_app
from services.api.dependencies import GatewaySettings
from services.api.settings import ApiSettings, FileSettings, StudentSettings, TeacherSettings
from tests import serving
from tests.contract.providers.test_providers import KEY, make_config
from tests.fakes.providers import BY_NAME, ROWS, FakeProvider, Row
from tests.fakes.scripted_students import ScriptedStudents
from tests.unit.api.assembling.assembling_bench import adds
from tests.unit.api.completions.test_fallback import say
from tests.unit.api.completions.test_routes import publish

QUESTION = "What is 3 + 1?"


@pytest.fixture
def students() -> Iterator[ScriptedStudents]:
    made = ScriptedStudents(say("7", 0.1, escalate=True))
    yield made
    made.close()


def ask(students: ScriptedStudents, provider: FakeProvider, models: Path) -> tuple[Any, str]:
    """The gateway's answer, whose student is unsure, and all of its text."""
    store, task = MemoryStore(), TaskSpec(answer=AnswerKind.NUMBER)
    model = publish(store)
    fallback = Fallback(teacher="big", threshold=0.6, task=task)
    made = PromptFormat(predict="predict: ", confidence=Confidence(fallback=fallback))
    write_record(store, keys.model_prefix(model) + PROMPT_FORMAT_FILE, made)
    settings = GatewaySettings(
        ApiSettings(),
        TeacherSettings(teachers={"big": make_config(provider)}),
        FileSettings(),
        ModelSettings(models_dir=models),
        students=StudentSettings(url=students.url),
    )
    app = create_app(store, MemoryJobStore(), MemoryEventLog(), MemoryJobQueue(), settings)
    messages = [{"role": "user", "content": QUESTION}]
    with serving.app(app) as url:
        answer = httpx2.post(
            f"{url}/v1/chat/completions",
            json={"model": model, "messages": messages, "fallback": True, "explain": True},
            timeout=60,
        )
    assert answer.status_code == 200, answer.text
    return answer.json(), answer.text


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_any_provider_answers_what_the_student_is_unsure_of(
    row: Row, students: ScriptedStudents, tmp_path: Path
) -> None:
    """Whatever it refuses on the way, and however it counts: its answer, its reason, its cost."""
    provider = FakeProvider(row, adds, key=KEY)
    try:
        answer, text = ask(students, provider, tmp_path)
    finally:
        provider.close()
    (choice,) = answer["choices"]
    assert choice["answered_by"] == "big", choice
    assert choice["message"]["content"] == "4"
    assert choice["message"]["reasoning_content"]
    assert answer["fallback_usage"]["completion_tokens"] > 0
    assert provider.answered == 1
    assert KEY not in text


def test_a_key_that_is_refused_leaves_the_students_answer_and_is_not_shown(
    students: ScriptedStudents, tmp_path: Path
) -> None:
    provider = FakeProvider(BY_NAME["openai"], adds, key="sk-another-one-0123456789")
    try:
        answer, text = ask(students, provider, tmp_path)
    finally:
        provider.close()
    (choice,) = answer["choices"]
    assert (choice["answered_by"], choice["message"]["content"]) == ("student", "7")
    assert "big" in choice["fallback_error"]
    assert KEY not in text
