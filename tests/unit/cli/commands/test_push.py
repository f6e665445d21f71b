"""`qcrd models push` to a hub by script, through the hub's own client.

In processes of their own, since that client reads its settings once, and without Xet, whose storage
speaks a protocol of its own: large files go by LFS.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from qcrd.runtime.storage.base_models import download_published_model
from qcrd.runtime.storage.store import MemoryStore
from tests import serving, students
from tests.fakes.hub import FakeHub


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pushed") / "student"
    store = MemoryStore()
    download_published_model(students.published(store), store, folder, "model")
    return folder


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[tuple[FakeHub, str]]:
    fake = FakeHub(root=tmp_path / "hub")
    with serving.app(fake.app()) as url:
        yield fake, url


def push(url: str, tmp_path: Path, *arguments: object, token: str = "hf_writes") -> str:
    """What the command printed, behind its exit code."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": url,
        "HF_TOKEN": token,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "home"),
    }
    command = [sys.executable, "-m", "qcrd.cli", "models", "push", *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    return f"{done.returncode} {' '.join((done.stdout + done.stderr).split())}"


def test_all_of_a_student_is_in_one_commit_with_its_card(
    hub: tuple[FakeHub, str], student: Path, tmp_path: Path
) -> None:
    fake, url = hub
    named = ("--base-model", "google-t5/t5-small", "--dataset", "acme/things", "--private")
    told = push(url, tmp_path, student, "acme/things-student", *named)
    assert told.startswith(f"0 {url}/acme/things-student/commit/")
    made = fake.repositories["acme/things-student"]
    files = {str(path.relative_to(made)): path for path in made.rglob("*") if path.is_file()}
    assert fake.private == {"acme/things-student"}
    assert {"model.safetensors", "qcrd.json", "config.json", "README.md"} <= set(files)
    for name, path in files.items():
        assert name == "README.md" or path.read_bytes() == (student / name).read_bytes()
    head = yaml.safe_load(files["README.md"].read_text().split("---\n")[1])
    assert head["base_model"] == "google-t5/t5-small"
    assert head["datasets"] == ["acme/things"]
    assert (head["library_name"], head["pipeline_tag"]) == ("transformers", "text2text-generation")
    # Once more: the repository is there, and what it has is not sent again.
    assert push(url, tmp_path, student, "acme/things-student").startswith("0 ")
    assert len([path for path in fake.requests if path.endswith("/commit/main")]) == 2


def test_what_the_hub_refuses_says_why_and_what_to_do(
    hub: tuple[FakeHub, str], student: Path, tmp_path: Path
) -> None:
    fake, url = hub
    refused = push(url, tmp_path, student, "acme/new", token="hf_other")
    assert refused.startswith("2 error: REPO: the hub refuses")
    assert "set HF_TOKEN" in refused
    refused = push(url, tmp_path, student, "stranger/new")
    assert refused.startswith("2 error: REPO: HF_TOKEN may not write to stranger/new")
    refused = push(url, tmp_path, student, "acme/new", "--base-model", "no such name")
    assert refused.startswith("2 error: REPO: the hub refuses")
    assert '"base_model" with value' in refused
    assert not any(path.endswith("/commit/main") for path in fake.requests)
