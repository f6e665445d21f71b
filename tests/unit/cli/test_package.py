"""What an installed package says of itself, and where its parts are missing or hidden."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import qcrd as package
from qcrd.cli.install_hint import describe_missing, format_install_command
from qcrd.cli.main import app
from qcrd.cli.stack.environment import find_other_services
from tests.unit.cli.commands.test_run import qcrd

ROOT = Path(package.__file__).parents[1]


def test_the_version_is_told() -> None:
    assert qcrd("--version").stdout == f"qcrd {package.__version__}\n"


def test_a_clone_has_the_examples_already() -> None:
    done = qcrd("examples", "--to", ROOT / "examples")
    assert (done.exit_code, f"{ROOT}/examples/demo.yaml" in done.stdout) == (0, True)


def test_the_examples_are_copied_once(tmp_path: Path) -> None:
    done = qcrd("examples", "--to", tmp_path / "mine")
    assert done.exit_code == 0
    assert (tmp_path / "mine/demo.yaml").read_text() == (ROOT / "examples/demo.yaml").read_text()
    assert (tmp_path / "mine/demo/train.jsonl").is_file()
    again = qcrd("examples", "--to", tmp_path / "mine")
    assert again.exit_code
    assert "is not an empty folder" in again.stderr


@pytest.mark.parametrize(
    ("source", "command"),
    [
        (None, "pip install 'qcrd[cli]'"),
        (
            {"url": "file:///wheels/qcrd-0.1.0-py3-none-any.whl", "archive_info": {}},
            "pip install 'qcrd[cli] @ file:///wheels/qcrd-0.1.0-py3-none-any.whl'",
        ),
        (
            {
                "url": "https://git.example/qcrd.git",
                "vcs_info": {"vcs": "git", "commit_id": "abc"},
            },
            "pip install 'qcrd[cli] @ git+https://git.example/qcrd.git@abc'",
        ),
        (
            {"url": "file:///my%20code", "dir_info": {"editable": True}},
            "pip install -c '/my code/constraints.txt' -e '/my code[cli]'",
        ),
    ],
)
def test_what_is_missing_is_installed_as_the_package_was(
    source: dict[str, object] | None,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    info = tmp_path / "qcrd-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: qcrd\nVersion: 0.1.0\n")
    if source is not None:
        (info / "direct_url.json").write_text(json.dumps(source))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert format_install_command("cli") == command
    assert "needs typer" in (describe_missing("typer") or "")
    assert "needs minio.credentials" in (describe_missing("minio.credentials") or "")
    assert describe_missing("qcrd.nothing") is None


def test_a_command_without_its_extra_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ModuleNotFoundError(name='typer')")
    done = subprocess.run(
        [sys.executable, "-m", "qcrd"],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode
    assert "error: the command line needs typer" in done.stderr
    assert "Traceback" not in done.stderr


def test_another_package_of_the_services_name_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_other_services() is None
    (tmp_path / "services").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert find_other_services() is None  # a folder without code hides nothing
    (tmp_path / "services/__init__.py").touch()
    assert find_other_services() == tmp_path / "services"


def test_no_help_hides_what_it_says_in_square_brackets() -> None:
    """Rich takes them for its own marks and prints nothing of them."""

    def iter_helps(command: Any, path: str) -> Iterator[tuple[str, str]]:
        for parameter in command.params:
            yield f"{path} {parameter.name}", getattr(parameter, "help", None) or ""
        for name, child in getattr(command, "commands", {}).items():
            yield from iter_helps(child, f"{path} {name}")

    helps = dict(iter_helps(get_command(app), "qcrd"))
    assert len(helps) > 60
    assert {place: text for place, text in helps.items() if "[" in text} == {}
