"""Writes a decoder-only student as one GGUF file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np

from qcrd.errors import Invalid
from qcrd.exports.gguf_file.architectures import (
    add_hyperparameters,
    find_architecture,
    iter_tensors,
)
from qcrd.exports.gguf_file.vocabulary import add_vocabulary, read_vocabulary
from qcrd.exports.original import OriginalStudent

Precision = Literal["f16", "q8_0"]
FILE_TYPES = {
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}
MAX_F16 = 65504.0
Q8_0_BLOCK = 32
"""Values of a row that share a scale."""


def write_gguf(original: OriginalStudent, path: Path, precision: Precision) -> None:
    """Write `path`. `Invalid`, with the reason and before anything is written, for a student that
    GGUF cannot hold."""
    config = original.config
    architecture = find_architecture(config)
    vocabulary = read_vocabulary(original.tokenizer, config.vocab_size)
    model = original.model
    shared = set(getattr(model, "all_tied_weights_keys", None) or ())
    weights = {name: w for name, w in model.state_dict().items() if name not in shared}
    tensors = [
        (name, *_encode(name, values, precision))
        for name, values in iter_tensors(architecture, config, weights)
    ]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture.arch])
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(original.folder.name)
    writer.add_file_type(FILE_TYPES[precision])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_hyperparameters(writer, config)
    add_vocabulary(writer, vocabulary, original.tokenizer)
    _add_ends(writer, original.ends)
    for name, values, kind in tensors:
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _encode(
    name: str, values: np.ndarray[Any, Any], precision: Precision
) -> tuple[np.ndarray[Any, Any], gguf.GGMLQuantizationType]:
    """Matrices in `precision`; vectors, which are small, in 32 bits, as llama.cpp computes them."""
    if values.ndim < 2:
        return values, gguf.GGMLQuantizationType.F32
    if precision == "q8_0" and values.shape[-1] % Q8_0_BLOCK == 0:
        kind = gguf.GGMLQuantizationType.Q8_0
        return gguf.quants.quantize(values, kind), kind
    if float(np.abs(values).max()) > MAX_F16:
        raise Invalid(
            f"--format: values of {name} are above {MAX_F16:.0f}, which 16 bits cannot hold",
            param="format",
            code="export_unsupported",
        )
    return values.astype(np.float16), gguf.GGMLQuantizationType.F16


def _add_ends(writer: gguf.GGUFWriter, ends: Sequence[int]) -> None:
    """The end that it learned, and those that its base had besides: llama.cpp stops at each."""
    adders = (writer.add_eos_token_id, writer.add_eot_token_id, writer.add_eom_token_id)
    if not 0 < len(ends) <= len(adders):
        raise Invalid(
            f"--format: it ends what it says with {len(ends)} tokens, and GGUF names one to "
            f"{len(adders)}",
            param="format",
            code="export_unsupported",
        )
    for add, end in zip(adders, ends, strict=False):
        add(end)
