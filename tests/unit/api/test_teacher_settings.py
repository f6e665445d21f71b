"""What a teacher's configuration may hold, told when a process begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from services.api.assembling.teacher.make_client import make_teacher_client
from services.api.assembling.teacher.teacher_errors import TeacherUnreachable
from services.api.settings import TeacherConfig

SECRET = "sk-0123456789\nx"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"api_key": SECRET}, "api_key has a character that no HTTP header may have"),
        ({"api_key": "sk-ключ"}, "api_key has a character"),
        ({"headers": {"api-key": SECRET}}, "headers.api-key has a character"),
        ({"headers": {"api\tkey": "x"}}, "has a character"),
        ({"query": {"api-version": SECRET}}, "query.api-version has a character"),
        ({"api_key_env": "QCRD_TEST_NO_SUCH_KEY"}, "QCRD_TEST_NO_SUCH_KEY is empty or not set"),
        ({"api_key": "sk-1", "api_key_env": "HOME"}, "give one of"),
    ],
)
def test_what_cannot_be_sent_is_refused_without_being_shown(
    given: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        TeacherConfig(url="http://t", **given)
    assert said in str(refused.value)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty or not set"),
        ("  \n", "is empty or not set"),
        ("sk-1\nsk-2\n", "has a character that no HTTP header may have"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_a_key_file_is_read_when_a_process_begins(
    content: str | None, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValidationError) as refused:
        TeacherConfig(url="http://t", api_key_file=path)
    assert f"api_key_file: {path} {said}" in str(refused.value)


def test_a_key_file_may_end_in_a_line_break_and_change(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("sk-1\n")
    config = TeacherConfig(url="http://t", api_key_file=path)
    path.write_text("sk-2\n")
    assert config.read_key() == "sk-2"


@pytest.mark.parametrize("api", ["tgi", "openai"])
def test_a_key_file_that_is_away_later_is_waited_for(api: str, tmp_path: Path) -> None:
    """A secret that is being replaced is gone for a moment."""
    path = tmp_path / "key"
    path.write_text("sk-1")
    config = TeacherConfig(url="http://t", api=api, model="m", api_key_file=path)
    path.unlink()
    with pytest.raises(TeacherUnreachable, match="api_key_file"):
        make_teacher_client("default", config)


def test_an_empty_key_is_none() -> None:
    """As templates write it whose variable is not set."""
    assert TeacherConfig(url="http://t", api_key="").read_key() is None


def test_batches_are_openai_s() -> None:
    with pytest.raises(ValidationError, match="`batch` needs `api` openai"):
        TeacherConfig(url="http://t", batch=True)
    assert TeacherConfig(url="http://t", api="openai", model="m", batch=True).batch_factor == 0.5


@pytest.mark.parametrize("factor", [0, -1, 1.5])
def test_a_batch_is_never_dearer_nor_free(factor: float) -> None:
    with pytest.raises(ValidationError, match="batch_factor"):
        TeacherConfig(url="http://t", batch_factor=factor)
