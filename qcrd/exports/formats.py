"""The formats of exports by name. What a format needs is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

from qcrd.errors import Invalid
from qcrd.exports.agreement import LabelledQuestion
from qcrd.exports.original import OriginalStudent

Export = Callable[[OriginalStudent, Path, list[LabelledQuestion], Path | None], str]
"""(student, new folder, questions to compare on, folder of base models) -> how it was checked."""


class ExportFormat(StrEnum):
    GGUF_F16 = "gguf-f16"
    GGUF_Q8_0 = "gguf-q8_0"
    ONNX = "onnx"
    ADAPTER = "adapter"


def _require(module: str, extra: str) -> None:
    if find_spec(module) is None:
        raise Invalid(
            f"--format: it is written with {module}, which is not installed: "
            f"pip install 'qcrd[{extra}]'",
            param="format",
        )


def _export_f16(
    student: OriginalStudent, target: Path, questions: list[LabelledQuestion], _: Path | None
) -> str:
    _require("gguf", "gguf")
    from qcrd.exports.gguf_export import export_gguf

    return export_gguf(student, target, "f16", questions)


def _export_q8_0(
    student: OriginalStudent, target: Path, questions: list[LabelledQuestion], _: Path | None
) -> str:
    _require("gguf", "gguf")
    from qcrd.exports.gguf_export import export_gguf

    return export_gguf(student, target, "q8_0", questions)


def _export_onnx(
    student: OriginalStudent,
    target: Path,
    questions: list[LabelledQuestion],
    _: Path | None,
) -> str:
    for module in ("onnxscript", "onnxruntime"):
        _require(module, "onnx")
    from qcrd.exports.onnx_export import export_onnx

    return export_onnx(student, target, questions)


def _export_adapter(
    student: OriginalStudent,
    target: Path,
    questions: list[LabelledQuestion],
    models: Path | None,
) -> str:
    from qcrd.exports.adapter import export_adapter

    return export_adapter(student, target, questions, models)


EXPORTS: Mapping[ExportFormat, Export] = {
    ExportFormat.GGUF_F16: _export_f16,
    ExportFormat.GGUF_Q8_0: _export_q8_0,
    ExportFormat.ONNX: _export_onnx,
    ExportFormat.ADAPTER: _export_adapter,
}
