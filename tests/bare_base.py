"""A base model of which nothing but its place counts."""

from __future__ import annotations

import struct
from pathlib import Path

NO_TENSORS = struct.pack("<Q", 2) + b"{}"
"""A whole safetensors file."""


def save_bare_base(folder: Path, config: str = "{}") -> None:
    """A config and weights without a tensor in `folder`, which is made."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config)
    (folder / "model.safetensors").write_bytes(NO_TENSORS)
