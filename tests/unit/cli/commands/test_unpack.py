"""`qcrd models unpack`: what it is called, what is refused, and that it is done once."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from qcrd.cli.main import app


def unpack(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["models", "unpack", *arguments])
    return done.exit_code, done.output + str(done.exception or "")


def test_a_folder_that_is_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the file's name without its quantisation, or the one that is given."""
    monkeypatch.setenv("QCRD_MODELS_DIR", str(tmp_path))
    file = tmp_path / "Tiny-1B.Q4_K.gguf"
    file.write_bytes(b"GGUF")
    for name, options in (("Tiny-1B", []), ("mine", ["--name", "mine"])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        code, said = unpack(str(file), *options)
        assert code == 0, said
        assert f"{name} is there" in said.replace("\n", "")


def test_what_is_no_such_file_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QCRD_MODELS_DIR", str(tmp_path / "models"))
    (tmp_path / "model.safetensors").write_bytes(b"GGUF")
    code, said = unpack(str(tmp_path / "model.safetensors"))
    assert code != 0
    assert "is not a .gguf file" in said
    assert not (tmp_path / "models").exists()


def test_a_file_that_cannot_be_read_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QCRD_MODELS_DIR", str(tmp_path / "models"))
    (tmp_path / "broken.gguf").write_bytes(b"GGUF and no more")
    code, said = unpack(str(tmp_path / "broken.gguf"))
    assert code != 0
    assert "was not unpacked" in said
    assert not (tmp_path / "models/broken").exists()


def test_another_file_is_told_from_one_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QCRD_MODELS_DIR", str(tmp_path / "models"))
    (tmp_path / "text.gguf").write_text("no model")
    for name, told in (("nothing.gguf", "there is no file"), ("text.gguf", "is not a .gguf file")):
        code, said = unpack(str(tmp_path / name))
        assert code != 0
        assert told in said
    code, said = unpack("smolm")
    assert code != 0
    assert "or `smollm2`" in said
