"""Which students GGUF can hold: their hyperparameters and the names of their tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from qcrd.errors import Invalid


@dataclass(frozen=True)
class Architecture:
    """`interleaved`: llama.cpp turns neighbours in a head where transformers turns its halves, so
    that rows of the query and key weights change places. `no_rope_interval`: every so many layers
    one has no rotary positions, which llama.cpp knows by itself."""

    arch: gguf.MODEL_ARCH
    interleaved: bool
    no_rope_interval: int | None = None


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(gguf.MODEL_ARCH.LLAMA, interleaved=True),
    "smollm3": Architecture(gguf.MODEL_ARCH.SMOLLM3, interleaved=True, no_rope_interval=4),
    "qwen2": Architecture(gguf.MODEL_ARCH.QWEN2, interleaved=False),
    "qwen3": Architecture(gguf.MODEL_ARCH.QWEN3, interleaved=False),
}


def find_architecture(config: Any) -> Architecture:
    """`Invalid`, with the reason, for a student that is not written to GGUF."""
    if config.is_encoder_decoder:
        raise _refuse(
            f"an encoder-decoder ({config.model_type}) is not written to GGUF, whose runtimes are "
            "made for decoder-only models: take `--format onnx`"
        )
    found = ARCHITECTURES.get(config.model_type)
    if found is None:
        known = ", ".join(ARCHITECTURES)
        raise _refuse(f"{config.model_type} students are not written to GGUF, only {known}")
    if config.hidden_act != "silu":
        raise _refuse(f"its activation is {config.hidden_act}, and llama.cpp computes silu there")
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
        raise _refuse("it has layers that see a window alone, which llama.cpp does not give it")
    if found.no_rope_interval is not None:
        expected = [
            int((layer + 1) % found.no_rope_interval != 0)
            for layer in range(config.num_hidden_layers)
        ]
        if list(config.no_rope_layers) != expected:
            raise _refuse("its layers without rotary positions are others than llama.cpp's")
    rope = _get_rope(config)
    if rope["rope_type"] not in ("default", "linear", "llama3"):
        raise _refuse(f"its rotary positions are scaled by {rope['rope_type']!r}")
    return found


def add_hyperparameters(writer: gguf.GGUFWriter, config: Any) -> None:
    """The config's numbers under llama.cpp's names."""
    heads = config.num_attention_heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(_get_head_width(config))
    writer.add_value_length(_get_head_width(config))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(_get_head_width(config))
    rope = _get_rope(config)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))


def iter_tensors(
    architecture: Architecture, config: Any, weights: Mapping[str, Tensor]
) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Name and fp32 values of each of llama.cpp's tensors. `weights` are those of the model, each
    of shared ones once. `Invalid` for one that llama.cpp has no place for."""
    names = gguf.get_tensor_name_map(architecture.arch, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    if (factors := _compute_rope_factors(config)) is not None:
        yield "rope_freqs.weight", factors
    for source, weight in weights.items():
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise _refuse(f"llama.cpp has no place for its tensor {source}")
        values = weight.detach().to(torch.float32)
        projection = source.split(".")[-2]
        if architecture.interleaved and projection in heads:
            values = _interleave(values, heads[projection])
        yield name, values.contiguous().numpy()


def _interleave(weight: Tensor, heads: int) -> Tensor:
    """Rows of each head [2, width / 2] as [width / 2, 2]."""
    halves = weight.reshape(heads, 2, -1, *weight.shape[1:])
    return halves.transpose(1, 2).reshape(weight.shape)


def _get_head_width(config: Any) -> int:
    return int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )


def _get_rope(config: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10_000.0, **(config.rope_parameters or {})}


def _compute_rope_factors(config: Any) -> np.ndarray[Any, Any] | None:
    """What each rotary frequency is divided by, [head width / 2]; None where by 1. Long waves are
    stretched by `factor`, short ones are left, and those between are in between (Llama 3.1)."""
    rope = _get_rope(config)
    if rope["rope_type"] != "llama3":
        return None
    width = _get_head_width(config)
    frequencies = float(rope["rope_theta"]) ** -(torch.arange(0, width, 2).double() / width)
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)
    low, high, factor = (rope[n] for n in ("low_freq_factor", "high_freq_factor", "factor"))
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    factors: np.ndarray[Any, Any] = (1 / ((1 - kept) / factor + kept)).float().numpy()
    return factors


def _refuse(reason: str) -> Invalid:
    return Invalid(f"--format: {reason}", param="format", code="export_unsupported")
