"""`qcrd keys`: a key is shown once, its file holds hashes and is never half written."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from qcrd.cli.main import app
from qcrd.records.api_keys import ApiKeyScope
from services.api.http.access.api_keys import ApiKeyStore


def qcrd(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["keys", *arguments])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_a_new_key_opens_the_gateway_that_reads_the_file(file: Path) -> None:
    made = qcrd("new", "ci", "--file", str(file), "--scope", "read", "--running-jobs", "2")
    assert made.exit_code == 0, made.output
    secret = made.stdout.strip()
    key = ApiKeyStore((), file).find(secret)
    assert key is not None
    assert (key.name, key.scopes, key.running_jobs) == ("ci", (ApiKeyScope.READ,), 2)
    assert secret not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = qcrd("new", "ci", "--file", str(file))
    assert again.exit_code == 2
    assert "a key named ci already" in again.output


def test_a_dropped_key_is_refused_and_the_others_stay(file: Path) -> None:
    first, second = (
        qcrd("new", name, "--file", str(file)).stdout.strip() for name in ("one", "two")
    )
    assert qcrd("drop", "one", "--file", str(file)).exit_code == 0
    ring = ApiKeyStore((), file)
    assert ring.find(first) is None
    assert ring.find(second) is not None
    missing = qcrd("drop", "one", "--file", str(file))
    assert (missing.exit_code, "there are: two" in missing.output) == (2, True)


def test_without_a_file_the_entry_is_printed(file: Path) -> None:
    made = qcrd("new", "ci")
    assert made.exit_code == 0
    assert '"sha256"' in made.stdout
    wrong = qcrd("new", "not a name")
    assert wrong.exit_code == 2
    assert "name" in wrong.output


def test_a_broken_file_is_left_as_it_is(file: Path) -> None:
    file.write_text("{")
    assert qcrd("new", "ci", "--file", str(file)).exit_code == 2
    assert file.read_text() == "{"
