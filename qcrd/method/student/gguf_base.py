"""A base model's folder out of a .gguf file, for students of the model that a teacher runs.

transformers refuses to save a model that it has read from such a file, so weights and config are
written here.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer


def unpack_gguf(path: Path, target: Path) -> None:
    """Write `target` with the weights of `path` in 16 bits, the tokenizer and the chat template.
    All of the folder is there, or none of it."""
    with _parsed_once():
        model: Any = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    shared = set(getattr(model, "all_tied_weights_keys", None) or ())
    weights = {
        name: weight.to(torch.float16).contiguous()
        for name, weight in model.state_dict().items()
        if name not in shared
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unpacking-") as scratch:
        folder = Path(scratch) / target.name
        folder.mkdir()
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        config = {
            **model.config.to_diff_dict(),
            "architectures": [type(model).__name__],
            "dtype": "float16",
        }
        # It is no longer quantised; and the name is that of a run of its makers.
        for name in ("quantization_config", "_model_name_or_path"):
            config.pop(name, None)
        (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True))
        tokenizer.save_pretrained(folder)
        os.replace(folder, target)


@contextmanager
def _parsed_once() -> Iterator[None]:
    """transformers parses the file for the config, the weights and the tokenizer, each time all of
    its vocabulary, and makes the table of names again for each module: half of the time."""
    originals = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    try:
        for name, original in originals.items():
            setattr(gguf, name, cache(original))
        yield
    finally:
        for name, original in originals.items():
            setattr(gguf, name, original)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a base model's folder from a .gguf file.")
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    if not (options.folder / "config.json").exists():
        unpack_gguf(options.file, options.folder)


if __name__ == "__main__":
    main()
