"""ONNX graphs through ONNX Runtime: they answer as their student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from qcrd.errors import Invalid
from qcrd.exports.__main__ import export_student
from qcrd.exports.formats import ExportFormat
from qcrd.exports.onnx_export import export_onnx
from qcrd.exports.original import OriginalStudent
from tests import exported, tiny


def test_a_decoder_only_student_is_one_graph(tmp_path: Path) -> None:
    folder = exported.save_student(tmp_path / "student", num_hidden_layers=1)
    outcome = export_student(ExportFormat.ONNX, folder, tmp_path / "out", [], None)
    assert outcome.checked == (
        "ONNX Runtime gives the same greedy tokens as transformers at 128 of 128 places"
    )
    assert {"model.onnx", "qcrd.json", "tokenizer.json"} <= {*outcome.files}
    # Padded rows of any number and length: the mask is read.
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    ids = np.array([[9, 8, 7, 6, 0], [5, 6, 7, 8, 9], [4, 3, 0, 0, 0]])
    mask = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    [logits] = session.run(None, {"input_ids": ids, "attention_mask": mask})
    model = OriginalStudent(folder).model
    with torch.no_grad():
        asked = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
        expected = model(**asked).logits.numpy()
    np.testing.assert_allclose(logits[mask == 1], expected[mask == 1], atol=1e-4)


def test_an_encoder_decoder_is_two_graphs(tmp_path: Path) -> None:
    folder = tiny.save_base(tmp_path / "student", "t5")
    config = T5Config.from_pretrained(folder, num_layers=1, num_decoder_layers=1)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    (folder / "qcrd.json").write_text(exported.FORMAT.model_dump_json())
    outcome = export_student(ExportFormat.ONNX, folder, tmp_path / "out", [], None)
    assert outcome.checked.startswith("ONNX Runtime gives the same greedy tokens")
    assert {"encoder.onnx", "decoder.onnx"} <= {*outcome.files}


def test_what_torch_cannot_trace_is_refused_with_its_reason(tmp_path: Path) -> None:
    """A layer that decides by its values, as some models of the hub do."""

    class Deciding(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, hidden: torch.Tensor) -> Any:
            return self.inner(hidden if float(hidden.sum()) > 0 else hidden * 2)

    folder = exported.save_student(tmp_path / "student", num_hidden_layers=1)
    original = OriginalStudent(folder)
    layer = original.model.model.layers[0]
    layer.mlp = Deciding(layer.mlp)
    (tmp_path / "out").mkdir()
    with pytest.raises(Invalid, match="torch does not export model of this student to ONNX"):
        export_onnx(original, tmp_path / "out", [])
