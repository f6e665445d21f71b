"""A job's creation names the lines that its teacher cannot read, before anything is paid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.api.settings import TeacherConfig, TeacherSettings
from tests.fakes.scripted_teacher import ScriptedTeacher
from tests.unit.api.gateway_client import Here, refused, sums
from tests.unit.api.jobs.estimating.test_prompt_lengths import count_words, long_rows

MakeSite = Callable[..., tuple[Here, ScriptedTeacher]]


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[MakeSite]:
    made: list[ScriptedTeacher] = []

    def make(**script: Any) -> tuple[Here, ScriptedTeacher]:
        limits = {"max_input_tokens": 1000, "max_total_tokens": 1200}
        made.append(ScriptedTeacher(lambda prompt, seed: " x", limits=limits, **script))
        config = TeacherConfig(url=made[-1].url)
        return Here(tmp_path / "models", teachers=TeacherSettings(teachers={"default": config})), (
            made[-1]
        )

    yield make
    for teacher in made:
        teacher.close()


def create(here: Here, rows: list[dict[str, Any]], **body: Any) -> Any:
    return here.create(here.file(rows), {"rationales": {"max_new_tokens": 300}, **body})


def messages(here: Here, job_id: str) -> list[tuple[str, str]]:
    return [(event.level, event.message) for event in here.events.read(job_id)]


def test_a_long_line_is_named_in_an_event_and_nothing_is_paid(make_site: MakeSite) -> None:
    here, teacher = make_site(tokenize=count_words)
    answer = create(here, long_rows(6, {6: 2000}))
    assert answer.status_code == 200, answer.text
    created, warning = messages(here, answer.json()["id"])
    assert created[1] == "job created"
    assert warning[0] == "warn"
    assert "1 does not fit into 900 tokens" in warning[1]
    assert "training_file line 6 (2,0" in warning[1]
    assert teacher.requests == []


def test_more_than_the_job_goes_on_without_are_refused(make_site: MakeSite) -> None:
    here, _ = make_site(tokenize=count_words)
    rows = long_rows(6, {2: 2000, 3: 2000, 5: 2000})
    message = refused(create(here, rows), 400, "questions_too_long", "training_file")
    assert "training_file line 2" in message
    assert "max_failed_share" in message
    assert here.jobs.list(None, 10) == []
    share = {"max_new_tokens": 300, "max_failed_share": 0.5}
    assert create(here, rows, rationales=share).status_code == 200


def test_only_what_has_more_bytes_than_there_are_tokens_is_counted(make_site: MakeSite) -> None:
    here, teacher = make_site(tokenize=count_words)
    assert create(here, sums(6)).status_code == 200
    assert teacher.tokenized == []


@pytest.mark.parametrize("away", [True, False])
def test_a_teacher_that_cannot_say_refuses_nothing(make_site: MakeSite, away: bool) -> None:
    here, teacher = make_site()  # it has no /tokenize
    if away:
        teacher.kill()
    answer = create(here, long_rows(6, {1: 2000}))
    assert answer.status_code == 200
    assert len(messages(here, answer.json()["id"])) == 1


def test_a_job_that_asks_no_teacher_is_not_checked(make_site: MakeSite) -> None:
    here, teacher = make_site(tokenize=count_words)
    body = {
        "model": "tiny",
        "training_file": here.file(long_rows(6, {1: 2000})),
        "method": {"type": "finetune", "finetune": {"task": {"answer": "number"}}},
    }
    assert here.client.post("/v1/fine_tuning/jobs", json=body).status_code == 200
    assert teacher.tokenized == []
