"""Models and tokenizers from a folder or a .gguf file, by transformers. Never runs the folder's
code, never reads pickles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from qcrd.errors import Invalid
from services.teacher.engines.base import DEFAULT_MAX_POSITIONS

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class LoadedModel:
    """Weights and tokenizer. `max_positions` is the longest sequence in tokens, of an
    encoder-decoder its longest input, whose output has `max_output_positions` of its own."""

    net: Any
    tokenizer: Any
    seq2seq: bool
    eos_token_ids: frozenset[int]
    max_positions: int
    max_output_positions: int | None = None
    special_token_ids: frozenset[int] = frozenset()
    adapters: tuple[str, ...] = field(default=())


def load_model(
    path: Path,
    *,
    precision: Precision = "float32",
    adapters: Mapping[str, str] | None = None,
    device: str | None = None,
) -> LoadedModel:
    """The model in `path`, on `device`, by default on the GPU if there is one.

    `adapters`: name to folder of a LoRA adapter. Raises `Invalid` for what can never load.
    """
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForSeq2SeqLM,
        AutoTokenizer,
    )

    folder, load_options = _locate_weights(path)
    try:
        config = AutoConfig.from_pretrained(folder, **load_options)
    except (ValueError, OSError) as error:
        raise _load_error(path, str(error).splitlines()[0]) from error
    kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = _resolve_dtype(precision, device)
    net = kind.from_pretrained(
        folder, dtype=dtype, use_safetensors=None if load_options else True, **load_options
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, **load_options)
    for name, adapter_path in (adapters or {}).items():
        net = _load_adapter(net, name, adapter_path)
    net = net.to(device=device, dtype=dtype).eval()
    configured_eos = net.generation_config.eos_token_id
    eos_ids = configured_eos if isinstance(configured_eos, list) else [configured_eos]
    eos = frozenset(e for e in [*eos_ids, tokenizer.eos_token_id] if e is not None)
    is_seq2seq = bool(config.is_encoder_decoder)
    # Put together of two models, it has the limits of each; otherwise both sides have the same.
    positions = _read_positions(getattr(config, "encoder", None) or config)
    output = _read_positions(getattr(config, "decoder", None) or config) if is_seq2seq else None
    special = frozenset(tokenizer.all_special_ids)
    names = tuple(adapters or ())
    return LoadedModel(net, tokenizer, is_seq2seq, eos, positions, output, special, names)


def _read_positions(config: Any) -> int:
    limits = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions"))
    return next((int(value) for value in limits if value), DEFAULT_MAX_POSITIONS)


def _locate_weights(path: Path) -> tuple[Path, dict[str, Any]]:
    """The folder that transformers loads from, and its extra arguments for a .gguf file."""
    if path.suffix == ".gguf":
        return path.parent, {"gguf_file": path.name}
    if not any(path.glob("*.safetensors")):
        pickles = sorted(p.name for p in path.iterdir() if p.suffix in (".bin", ".pt", ".pth"))
        reason = f"only pickles ({', '.join(pickles)})" if pickles else "no weights"
        raise _load_error(path, f"{reason}; save them with save_pretrained as safetensors")
    return path, {}


def _load_error(path: Path, reason: str) -> Invalid:
    return Invalid(f"MODEL_ID: {path}: {reason}", param="MODEL_ID", code="model_not_loaded")


def _resolve_dtype(precision: Precision, device: str) -> torch.dtype:
    """`auto`: bfloat16 where the hardware multiplies in it."""
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    has_native_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has_native_bf16 else torch.float32


def _load_adapter(net: Any, name: str, path: str) -> Any:
    from peft import PeftModel

    folder = Path(path).expanduser()
    if not (folder / "adapter_model.safetensors").is_file():
        raise Invalid(
            f"LORA_ADAPTERS: {name}={path}: no adapter_model.safetensors there: give the folder "
            "that peft's save_pretrained wrote",
            param="LORA_ADAPTERS",
        )
    if isinstance(net, PeftModel):
        net.load_adapter(str(folder), adapter_name=name)
        return net
    return PeftModel.from_pretrained(net, str(folder), adapter_name=name)
