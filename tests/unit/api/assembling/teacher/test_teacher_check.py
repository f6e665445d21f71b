"""How a teacher is found to be before any job asks it, and in which words."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from qcrd.runtime.redis.teacher_notes import MemoryTeacherNotes
from services.api.assembling.teacher.openai.models import is_listed, list_models
from services.api.assembling.teacher.teacher_check import Finding, TeacherChecker, check_teacher
from services.api.settings import TeacherConfig
from tests import serving
from tests.fakes.providers import BY_NAME, FakeProvider
from tests.unit.api.assembling.assembling_bench import adds

KEY, WRONG = "sk-of-the-team-0123456789", "sk-of-somebody-else-0123456789"

Provide = Callable[..., FakeProvider]


@pytest.fixture
def provide() -> Iterator[Provide]:
    made: list[FakeProvider] = []

    def make(name: str = "openai", **script: Any) -> FakeProvider:
        made.append(FakeProvider(BY_NAME[name], adds, key=KEY, **script))
        return made[-1]

    yield make
    for provider in made:
        provider.close()


def make_config(provider: FakeProvider, **changes: Any) -> TeacherConfig:
    given = {"url": provider.url, "api": "openai", "model": "m", "api_key": SecretStr(KEY)}
    return TeacherConfig(**{**given, **changes})


def find(teacher: TeacherConfig) -> Finding:
    return asyncio.run(check_teacher("gpt", teacher))


def test_one_that_knows_its_model_is_well_and_is_asked_for_nothing(provide: Provide) -> None:
    provider = provide()
    assert find(make_config(provider)) == ("ok", "teacher gpt answers and has the model m")
    assert provider.requests == []


def test_a_wrong_key_is_told_by_its_file(provide: Provide, tmp_path: Path) -> None:
    path = tmp_path / "gpt-key"
    path.write_text(WRONG)
    state, message = find(make_config(provide(), api_key=None, api_key_file=path))
    assert state == "refused"
    assert f"refuses the key: look at `api_key_file` {path}" in message
    assert WRONG not in message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"api_key": SecretStr(WRONG)}, "look at `api_key` in the setting QCRD_TEACHERS"),
        ({"api_key": None, "api_key_env": "GPT_KEY"}, "look at `api_key_env` GPT_KEY"),
        ({"api_key": None, "headers": {"api-key": SecretStr(WRONG)}}, "`headers.api-key`"),
        ({"api_key": None}, "it has none; give one by `api_key_file`"),
    ],
)
def test_a_wrong_key_is_told_by_its_place(
    changes: dict[str, Any], said: str, provide: Provide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPT_KEY", WRONG)
    state, message = find(make_config(provide(), **changes))
    assert state == "refused"
    assert said in message
    assert WRONG not in message


def test_a_model_that_is_not_listed_is_told_with_those_that_are_like_it(provide: Provide) -> None:
    state, message = find(make_config(provide(), model="othr"))
    assert state == "unlisted"
    assert "lists no model 'othr'" in message
    assert message.endswith("of the 2 that it lists the nearest are other")
    _, message = find(make_config(provide(), model="something else entirely"))
    assert message.endswith("m, other")


@pytest.mark.parametrize("quirk", ["unlisted", ""])
def test_one_without_a_list_is_believed(quirk: str, provide: Provide) -> None:
    """Its key may not list models, or it has no list."""
    provider = provide(quirk=quirk) if quirk else provide("azure")
    access = {} if quirk else {"api_key": None, "headers": {"api-key": SecretStr(KEY)}}
    state, message = find(make_config(provider, **access))
    assert state == "ok"
    assert "lists no models by which its name is checked" in message


def test_a_page_in_place_of_a_list_is_no_such_server() -> None:
    page = Route("/v1/models", lambda request: Response("<html>", media_type="text/html"))
    with serving.app(Starlette(routes=[page])) as url:
        state, message = find(TeacherConfig(url=url, api="openai", model="m"))
    assert state == "refused"
    assert "text/html" in message


def test_one_that_is_away_or_whose_key_file_is_gone_is_away(
    provide: Provide, tmp_path: Path
) -> None:
    path = tmp_path / "key"
    path.write_text(KEY)
    provider = provide()
    teacher = make_config(provider, api_key=None, api_key_file=path)
    path.unlink()
    assert find(teacher)[0] == "away"
    assert str(path) in find(teacher)[1]
    provider.close()
    state, message = find(make_config(provider))
    assert state == "away"
    assert "does not respond" in message
    assert "check its `url` in the setting QCRD_TEACHERS" in message


def test_a_tgi_is_asked_for_its_key_where_it_wants_one() -> None:
    """Where it tells its model it wants none."""

    async def count(request: Request) -> Response:
        is_right = request.headers.get("authorization") == f"Bearer {KEY}"
        return JSONResponse([1]) if is_right else Response(status_code=401)

    routes = [
        Route("/info", lambda request: JSONResponse({"model_id": "m"})),
        Route("/health", lambda request: Response()),
        Route("/tokenize", count, methods=["POST"]),
    ]
    with serving.app(Starlette(routes=routes)) as url:
        assert find(TeacherConfig(url=url, api_key=SecretStr(KEY)))[0] == "ok"
        state, message = find(TeacherConfig(url=url, api_key=SecretStr(WRONG)))
    assert state == "refused"
    assert "look at `api_key`" in message


def test_names_are_read_as_servers_take_them() -> None:
    """Gemini, Ollama; llama.cpp has one model and takes any name."""
    assert is_listed("gemini-3", ("models/gemini-3",))
    assert is_listed("qwen3", ("qwen3:latest",))
    assert not is_listed("qwen3", ("qwen3:4b",))
    assert list_models({"data": [{"id": "/m.gguf", "owned_by": "llamacpp"}]}) is None
    assert list_models([{"id": "a"}, {"id": "b"}]) == ("a", "b")
    assert list_models({}) is None


def test_a_checker_tells_of_changes_once_and_notes_since_when(
    provide: Provide, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO, "services.api.assembling.teacher.teacher_check")
    path = tmp_path / "key"
    path.write_text(WRONG)
    provider, notes = provide(), MemoryTeacherNotes()
    teachers = {
        "gpt": make_config(provider, api_key=None, api_key_file=path),
        "well": make_config(provider),
    }
    checker = TeacherChecker(teachers, notes)
    assert [checker.check(), checker.check()] == [False, False]
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in told] == ["WARNING", "INFO"]
    assert str(path) in told[0][1]
    noted = notes.read_check(teachers["gpt"].identify("gpt"))
    assert noted is not None
    assert noted.state == "refused"
    assert noted.since < noted.checked_at
    path.write_text(KEY)
    assert checker.check()
    assert "teacher gpt answers" in caplog.records[-1].getMessage()
    assert len(caplog.records) == 3
    assert WRONG not in caplog.text
