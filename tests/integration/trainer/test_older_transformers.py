"""A published student under the oldest transformers that its card names: the same answers."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest

from qcrd.method.prompts import EXPLAIN_PREFIX
from qcrd.records.specs.spec import MethodName
from qcrd.records.specs.training_spec import StudentSpec
from qcrd.runtime.storage.base_models import download_published_model
from qcrd.runtime.storage.store import MemoryStore
from services.trainer.results.model_card import OLDEST_TRANSFORMERS
from tests.conftest import unavailable
from tests.students import REASONS, published, question, taught

CLIENTS = Path(__file__).parents[2] / "clients"
PINS = CLIENTS / "transformers_4.txt"


def older_packages() -> Path:
    """A folder with the older packages, before ours on the path: torch is the same."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "qcrd-test-clients"
    mark = hashlib.sha256(PINS.read_bytes() + sys.version.encode()).hexdigest()[:16]
    folder = cache / f"transformers_4-{mark}"
    if not (folder / "complete").exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade"]
        made = subprocess.run(
            [*command, "--target", str(folder), "-r", str(PINS)], capture_output=True, text=True
        )
        if made.returncode:
            unavailable(f"transformers 4 ({made.stderr[-300:]})")
        (folder / "complete").touch()
    return folder


def ask(folder: Path, chats: list[list[dict[str, str]]]) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(older_packages()), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(CLIENTS / "transformers_4_client.py"), str(folder)]
    done = subprocess.run(
        command, input=json.dumps(chats), capture_output=True, text=True, env=environment,
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.mark.parametrize("prompt", ["plain", "chat"])
def test_the_oldest_transformers_of_the_card_asks_and_answers_the_same(
    tmp_path: Path, prompt: Literal["plain", "chat"]
) -> None:
    """Ten chats by the folder's own template, each the user's last message."""
    store, spec = MemoryStore(), StudentSpec(answers="reasoned", prompt=prompt)
    model = published(store, kind="llama", student=spec)
    folder = tmp_path / model
    download_published_model(model, store, folder, "model")
    said = [question(thing) for thing in REASONS]
    said += ["what is a trout ?", "a hammer", "music", "</s> it is a thing", "apple ?", "  trout  "]
    chats = [[{"role": "user", "content": text}] for text in said]
    chats[1] = [{"role": "system", "content": "be brief"}, *chats[0], *chats[1]]
    told = ask(folder, chats)
    assert told["version"].startswith(OLDEST_TRANSFORMERS)
    student = taught("llama", MethodName.DSS, spec)
    begin, end = student.find_frame()
    prompts = [EXPLAIN_PREFIX + text.strip() for text in said]
    assert told["prompts"] == [f"{begin}{student.frame_prompt(each)}{end}" for each in prompts]
    own = student.generate(prompts, max_new_tokens=12)
    assert told["outputs"] == own
