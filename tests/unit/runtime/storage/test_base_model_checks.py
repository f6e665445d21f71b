"""What is wrong with the files of a base model is named before anything is paid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qcrd.errors import Invalid
from qcrd.runtime.settings import ModelSettings
from qcrd.runtime.storage.base_model_checks import inspect_base_model
from qcrd.runtime.storage.base_models import find_base_model
from qcrd.runtime.storage.store import MemoryStore
from tests import tiny

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


@pytest.fixture(params=["bert", "t5", "llama"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tiny.save_base(tmp_path / "tiny", request.param)


def edit(path: Path, **changes: object) -> None:
    made = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in made.items() if value is not None}))


def test_a_whole_base_has_no_problem(base: Path) -> None:
    info = inspect_base_model(base)
    assert info.problem is None
    assert info.config["model_type"] in ("bert", "t5", "llama")


def test_a_pointer_of_git_lfs_is_named(base: Path) -> None:
    (base / "model.safetensors").write_text(POINTER)
    problem = inspect_base_model(base).problem or ""
    assert "model.safetensors that is a pointer of Git LFS: fetch the file itself" in problem
    with pytest.raises(Invalid, match="pointer of Git LFS") as refusal:
        find_base_model("tiny", ModelSettings(models_dir=base.parent), MemoryStore())
    assert refusal.value.param == "model"


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_weights_that_are_cut_off_are_named(base: Path, kept: int) -> None:
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept])
    assert "cut off or damaged" in (inspect_base_model(base).problem or "")


def test_a_base_without_weights_is_named(base: Path) -> None:
    (base / "model.safetensors").unlink()
    assert "no weights (model.safetensors)" in (inspect_base_model(base).problem or "")


def test_a_shard_that_is_not_there_is_named(base: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks model-00001-of-00002" in (inspect_base_model(base).problem or "")


def test_a_tokenizer_with_more_tokens_than_embeddings_is_named(base: Path) -> None:
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    size = json.loads((base / "config.json").read_text())["vocab_size"]
    token = {**tokenizer["added_tokens"][0], "content": "<new>", "id": size + 6}
    tokenizer["added_tokens"].append(token)
    (base / "tokenizer.json").write_text(json.dumps(tokenizer))
    problem = inspect_base_model(base).problem or ""
    assert f"a tokenizer with {size + 7} tokens, but embeddings for {size}" in problem


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_a_tokenizer_without_an_end_token_is_named(kind: str, tmp_path: Path) -> None:
    base = tiny.save_base(tmp_path / "tiny", kind)
    edit(base / "tokenizer_config.json", eos_token=None)
    assert "without an end token" in (inspect_base_model(base).problem or "")


@pytest.mark.parametrize("text", ["{", "[]", "null"])
def test_a_broken_config_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    assert "not JSON" in (inspect_base_model(tmp_path).problem or "")
