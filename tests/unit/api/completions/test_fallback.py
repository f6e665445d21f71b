"""A question that a student is unsure of is its teacher's to answer, where the request says so.

A scripted server of students and a scripted teacher; real sockets between all three.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from qcrd.records.specs.task import AnswerKind, FewShotExample, TaskSpec
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
from services.api.settings import (
    ApiSettings,
    FileSettings,
    StudentSettings,
    TeacherConfig,
    TeacherSettings,
)
from tests import serving
from tests.fakes.scripted_students import Connection, ScriptedStudents
from tests.fakes.scripted_teacher import ANSWER_TOKENS, PROMPT_TOKENS, ScriptedTeacher
from tests.things import LABELS
from tests.unit.api.completions.test_routes import publish

EXAMPLE = FewShotExample(question="what is a pear ?", explanation="it grows", answer="fruit")
TASK = TaskSpec(answer=AnswerKind.LABEL, labels=LABELS, examples=(EXAMPLE,))


@dataclass
class Site:
    url: str
    store: MemoryStore
    students: ScriptedStudents
    teacher: ScriptedTeacher
    model: str

    def publish(self, **changes: Any) -> None:
        """The model's format, with a fallback to `big`."""
        fallback = Fallback(teacher="big", threshold=0.6, task=TASK)
        confidence = Confidence(weights={"answer": 1.0}, fallback=fallback)
        made = PromptFormat(predict="predict: ", confidence=confidence)
        update = made.model_copy(update=changes)
        write_record(self.store, keys.model_prefix(self.model) + PROMPT_FORMAT_FILE, update)

    def ask(self, **changes: Any) -> httpx2.Response:
        messages = [{"role": "user", "content": "what is a trout ?"}]
        body = {"model": self.model, "messages": messages, "fallback": True, **changes}
        return httpx2.post(f"{self.url}/v1/chat/completions", json=body)


def say(label: str, confidence: float, *, escalate: bool) -> Any:
    async def script(connection: Connection) -> None:
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": label},
            "confidence": confidence,
            "escalate": escalate,
        }
        body = json.dumps({"id": "chatcmpl-1", "choices": [choice]})
        connection.answer(200, body.encode(), content_type="application/json")

    return script


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    store, students = MemoryStore(), ScriptedStudents()
    teacher = ScriptedTeacher(lambda prompt, seed: " it swims in water\n<Answer>: animal")
    settings = GatewaySettings(
        ApiSettings(),
        TeacherSettings(teachers={"big": TeacherConfig(url=teacher.url)}),
        FileSettings(),
        ModelSettings(models_dir=tmp_path),
        students=StudentSettings(url=students.url),
    )
    app = create_app(store, MemoryJobStore(), MemoryEventLog(), MemoryJobQueue(), settings)
    with serving.app(app) as url:
        made = Site(url, store, students, teacher, publish(store))
        made.publish()
        yield made
    students.close()
    teacher.close()


def test_what_the_student_is_unsure_of_its_teacher_answers(site: Site) -> None:
    """Asked as the student's job asked, examples first; its cost is told apart."""
    site.students.script = say("tool", 0.2, escalate=True)
    answer = site.ask(explain=True).json()
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == "animal"
    assert choice["message"]["reasoning_content"] == "it swims in water"
    assert (choice["answered_by"], choice["confidence"]) == ("big", 0.2)
    assert answer["fallback_usage"] == {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": ANSWER_TOKENS,
        "total_tokens": PROMPT_TOKENS + ANSWER_TOKENS,
    }
    (asked,) = site.teacher.requests
    prompt = asked["inputs"]
    assert prompt.index("what is a pear ?") < prompt.index("what is a trout ?")


def test_what_it_is_sure_of_costs_no_teacher(site: Site) -> None:
    site.students.script = say("tool", 0.9, escalate=False)
    (choice,) = site.ask().json()["choices"]
    assert (choice["message"]["content"], choice["answered_by"]) == ("tool", "student")
    assert site.teacher.requests == []


def test_without_the_field_nobody_else_is_asked(site: Site) -> None:
    site.students.script = say("tool", 0.2, escalate=True)
    (choice,) = site.ask(fallback=False).json()["choices"]
    assert choice["message"]["content"] == "tool"
    assert choice["escalate"] is True
    assert "answered_by" not in choice
    assert site.teacher.requests == []


def test_while_the_teacher_is_away_the_student_s_answer_stands_and_why(site: Site) -> None:
    site.students.script = say("tool", 0.2, escalate=True)
    site.teacher.kill()
    (choice,) = site.ask().json()["choices"]
    assert (choice["message"]["content"], choice["answered_by"]) == ("tool", "student")
    assert "big" in choice["fallback_error"]


def test_an_answer_of_the_teacher_that_says_nothing_replaces_none(site: Site) -> None:
    site.students.script = say("tool", 0.2, escalate=True)
    site.teacher.answer = lambda prompt, seed: " who knows"
    answer = site.ask().json()
    (choice,) = answer["choices"]
    assert (choice["message"]["content"], choice["answered_by"]) == ("tool", "student")
    assert "no answer that can be read" in choice["fallback_error"]
    assert answer["fallback_usage"]["total_tokens"] > 0  # it was paid


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"stream": True}, "leave out `stream`"),
        ({"n": 2}, "leave out `stream` and `n`"),
        ({"vote": 3}, "leave out `vote`"),
    ],
)
def test_one_whole_answer_is_replaced_or_none(site: Site, asked: Any, told: str) -> None:
    answer = site.ask(**asked)
    assert answer.status_code == 400
    assert told in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("format_changes", "code"),
    [
        ({"confidence": None}, "no_fallback"),
        ({"confidence": Confidence()}, "no_fallback"),
        ({"conversation": True}, "invalid_value"),
        (
            {"confidence": Confidence(fallback=Fallback(teacher="gone", threshold=0.5))},
            "unknown_teacher",
        ),
    ],
)
def test_a_student_without_a_fallback_says_so(site: Site, format_changes: Any, code: str) -> None:
    site.publish(**format_changes)
    answer = site.ask()
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, "fallback", code)
    assert site.students.asked == []
