"""The adapter that is published beside the merged weights, through PEFT."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from qcrd.errors import Invalid
from qcrd.exports.__main__ import ExportOutcome, export_student
from qcrd.exports.formats import ExportFormat
from qcrd.records.specs.spec import MethodName
from qcrd.records.specs.training_spec import LoraSpec, StudentSpec
from qcrd.runtime.storage.base_models import download_published_model
from qcrd.runtime.storage.store import MemoryStore
from tests import students, tiny

LORA = StudentSpec(lora=LoraSpec(rank=4, alpha=8), lora_upper_share=0.5)


def published(folder: Path, student: StudentSpec = LORA) -> Path:
    """The folder of a student of `tiny-llama`, as `qcrd models download` gives it."""
    store = MemoryStore()
    model = students.published(store, kind="llama", method=MethodName.DSS, student=student)
    download_published_model(model, store, folder, "model")
    return folder


def export(folder: Path, models: Path) -> ExportOutcome:
    return export_student(ExportFormat.ADAPTER, folder, folder.parent / "out", [], models)


def test_on_its_base_the_adapter_is_the_student(tmp_path: Path) -> None:
    student = published(tmp_path / "student")
    base = tiny.save_base(tmp_path / "models" / "tiny-llama", "llama")
    outcome = export(student, tmp_path / "models")
    assert outcome.checked.startswith("on tiny-llama PEFT gives the same greedy tokens")
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "qcrd.json"} <= {
        *outcome.files
    }
    weights = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert all(".layers.1." in name for name in weights)  # the upper half of two
    apart = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(student)
    ids = torch.tensor([[3, 5, 7, 9]])
    with torch.no_grad():
        expected = merged.eval()(ids).logits
        torch.testing.assert_close(apart.eval()(ids).logits, expected, rtol=1e-4, atol=1e-4)
        with apart.disable_adapter():
            assert not torch.allclose(apart(ids).logits, expected, atol=1e-2)


def test_one_that_is_another_students_is_refused(tmp_path: Path) -> None:
    student = published(tmp_path / "student")
    tiny.save_base(tmp_path / "models" / "tiny-llama", "llama")
    path = student / "adapter" / "adapter_model.safetensors"
    changed = {name: -weight for name, weight in load_file(path).items() if "lora_B" in name}
    save_file({**load_file(path), **changed}, path)
    with pytest.raises(Invalid, match="does not answer as its student"):
        export(student, tmp_path / "models")


def test_without_its_base_it_says_that_it_is_not_verified(tmp_path: Path) -> None:
    outcome = export(published(tmp_path / "student"), tmp_path / "models")
    assert outcome.checked.startswith("not verified: its base tiny-llama is not in the models fol")


def test_a_student_that_was_trained_whole_has_none(tmp_path: Path) -> None:
    student = published(tmp_path / "student", StudentSpec())
    with pytest.raises(Invalid, match=r"has no adapter: it was trained whole, without .*lora"):
        export(student, tmp_path / "models")
