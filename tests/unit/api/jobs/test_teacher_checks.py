"""A job is refused whose teacher was found to refuse all requests; that one is away it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.api.assembling.teacher.teacher_check import TeacherChecker, check_teacher
from services.api.dependencies import Gateway, get_service
from services.api.settings import TeacherConfig, TeacherSettings
from tests.fakes.providers import BY_NAME, FakeProvider
from tests.unit.api.assembling.assembling_bench import adds
from tests.unit.api.gateway_client import Here, refused, sums
from tests.unit.api.studies.test_routes import study_body

KEY, WRONG = "sk-of-the-team-0123456789", "sk-of-somebody-else-0123456789"
TEACHER = "method.qcrd.teacher"


class Site:
    """A gateway whose one teacher is a provider, and the worker's look at it."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.provider = FakeProvider(BY_NAME["openai"], adds, key=KEY)
        self.key = folder / "key"
        self.key.write_text(KEY)
        given = {"url": self.provider.url, "api": "openai", "model": "m", "api_key_file": self.key}
        teachers = {"default": TeacherConfig(**{**given, **changes})}
        self.here = Here(folder / "models", teachers=TeacherSettings(teachers=teachers))
        self.notes = get_service(self.here.app, Gateway).shared.teacher_notes
        self.checker = TeacherChecker(teachers, self.notes)

    def create(self) -> Any:
        return self.here.create(self.here.file(sums(5)), {"rationales": {"n": 1}})

    def said(self, job_id: str) -> list[str]:
        return [event.message for event in self.here.events.read(job_id, None, 100)]

    def ready(self) -> Any:
        answer = self.here.client.get("/ready")
        assert answer.status_code == 200, "a teacher keeps nobody else from working"
        return answer.json().get("teachers")


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def make(**changes: Any) -> Site:
        made.append(Site(tmp_path, **changes))
        return made[-1]

    yield make
    for site in made:
        site.provider.close()


def test_of_a_teacher_that_nobody_looked_at_nothing_is_said(
    make_site: Callable[..., Site],
) -> None:
    site = make_site()
    assert site.ready() is None
    site.key.write_text(WRONG)
    assert site.create().status_code == 200


def test_a_wrong_key_refuses_the_job_until_it_is_mended(make_site: Callable[..., Site]) -> None:
    """Which nobody has to wait for: it is asked once more."""
    site = make_site()
    site.key.write_text(WRONG)
    site.checker.check()
    assert str(site.key) in site.ready()["default"]
    message = refused(site.create(), 400, "teacher_refused", TEACHER)
    assert f"refuses the key: look at `api_key_file` {site.key}" in message
    assert WRONG not in message
    site.key.write_text(KEY)
    assert site.create().status_code == 200
    assert site.ready() == {"default": "ok"}


def test_a_job_that_asks_nobody_is_taken(make_site: Callable[..., Site]) -> None:
    site = make_site()
    site.key.write_text(WRONG)
    site.checker.check()
    rows = [{**row, "teacher_output": f" x\n<Answer>: {row['label']}"} for row in sums(5)]
    file = site.here.file(rows)
    answer = site.here.create(file, {"rationales": {"import": file}})
    assert answer.status_code == 200, answer.text


def test_one_that_is_away_is_told_in_the_jobs_events(make_site: Callable[..., Site]) -> None:
    site = make_site()
    site.provider.close()
    site.checker.check()
    answer = site.create()
    assert answer.status_code == 200, answer.text
    (said,) = [each for each in site.said(answer.json()["id"]) if "teacher" in each]
    assert "does not respond" in said
    assert said.endswith("; the job waits for it")
    assert "does not respond" in site.ready()["default"]
    assert ", since 20" in site.ready()["default"]


def test_a_model_that_is_not_listed_is_told_and_may_be_there(
    make_site: Callable[..., Site],
) -> None:
    site = make_site(model="othr")
    site.checker.check()
    answer = site.create()
    assert answer.status_code == 200, answer.text
    assert any("lists no model 'othr'" in each for each in site.said(answer.json()["id"]))


def test_what_was_found_of_another_address_says_nothing(make_site: Callable[..., Site]) -> None:
    site = make_site()
    teacher = site.checker.teachers["default"]
    other = teacher.model_copy(update={"url": "http://elsewhere"})
    assert teacher.identify("default") != other.identify("default")
    assert asyncio.run(check_teacher("default", teacher))[0] == "ok"


def test_a_study_is_told_the_same_in_the_events_of_its_leader(
    make_site: Callable[..., Site],
) -> None:
    site = make_site()
    site.provider.close()
    site.checker.check()
    answer = site.here.client.post("/v1/studies", json=study_body(site.here))
    assert answer.status_code == 200, answer.text
    (said,) = [each for each in site.said(answer.json()["leader"]) if "teacher" in each]
    assert "does not respond" in said
    others = [job["id"] for job in answer.json()["jobs"] if job["id"] != answer.json()["leader"]]
    assert others
    assert not any("teacher" in each for job_id in others for each in site.said(job_id))
