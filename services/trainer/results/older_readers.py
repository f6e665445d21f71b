"""What a published folder says in the words of transformers 4 too.

Servers and converters built on it read a base of rotary positions that is said only in the newer
way as 10,000, without a word, and do not know the newer name of a tokenizer's class.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

TOKENIZER_CLASS = "PreTrainedTokenizerFast"
"""The class that reads tokenizer.json in both."""


def adapt(folder: Path) -> None:
    """Say it both ways in the folder's config.json and tokenizer_config.json."""
    _change(folder / "config.json", _repeat_rope)
    _change(folder / "tokenizer_config.json", _name_class)


def _change(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    if not path.exists():
        return
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _repeat_rope(config: dict[str, Any]) -> None:
    """For every part of a model that is put together; layers with ropes of their own have no word
    in the older form."""
    for part in [config, *(value for value in config.values() if isinstance(value, dict))]:
        rope = part.get("rope_parameters")
        if not isinstance(rope, dict) or "rope_theta" not in rope:
            continue
        part.setdefault("rope_theta", rope["rope_theta"])
        if rope.get("rope_type", "default") != "default":
            scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
            part.setdefault("rope_scaling", scaling)


def _name_class(config: dict[str, Any]) -> None:
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = TOKENIZER_CLASS
        # By default it gives segments too, which decoders refuse.
        config.setdefault("model_input_names", ["input_ids", "attention_mask"])
