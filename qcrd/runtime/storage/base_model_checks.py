"""What is wrong with the files of a base model, as far as they tell without torch.

Looked at before a job pays its teacher: in training these files end in tracebacks.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from qcrd.records.base_models import BaseModelInfo

LFS_HEAD = b"version https://git-lfs"
MAX_LFS_POINTER_BYTES = 1024
FolderStamp = tuple[tuple[str, int, int], ...]
"""Name, size and time of change of every file."""

NO_DEFAULT_TOKENS = {"PreTrainedTokenizerFast", "TokenizersBackend"}
"""Tokenizer classes that have only the special tokens that their files name."""


def inspect_base_model(folder: Path) -> BaseModelInfo:
    """The config of the base model in `folder`, and the first thing that is wrong with it. Files
    are read again only when one of them has changed."""
    stats = ((path.name, path.stat()) for path in sorted(folder.glob("*")))
    stamp = tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
    return _inspect(folder, stamp)


@lru_cache(maxsize=256)
def _inspect(folder: Path, _: FolderStamp) -> BaseModelInfo:
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except OSError:
        return BaseModelInfo(problem="has no config.json that can be read")
    except ValueError:
        config = None
    if not isinstance(config, dict):
        return BaseModelInfo(problem="has a config.json that is not JSON: fetch the model again")
    return BaseModelInfo(config=config, problem=next(_find_problems(folder, config), None))


WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "*.gguf")


def _find_problems(folder: Path, config: dict[str, Any]) -> Iterator[str]:
    if not any(next(folder.glob(pattern), None) for pattern in WEIGHTS):
        yield "has a config.json and no weights (model.safetensors): fetch the model again"
    for path in sorted(folder.glob("*.safetensors")):
        yield from _check_weights(path)
    for name in _missing_shards(folder):
        yield f"lacks {name}, which its index names: fetch the model again"
    for path in (folder / "tokenizer.json", folder / "tokenizer.model", folder / "spiece.model"):
        if path.is_file() and _is_lfs_pointer(path):
            yield _describe_pointer(path)
    yield from _check_tokenizer(folder, config)


def _check_weights(path: Path) -> Iterator[str]:
    if _is_lfs_pointer(path):
        yield _describe_pointer(path)
    elif not _is_whole_safetensors(path):
        yield f"has a {path.name} that is cut off or damaged: fetch the model again"


def _is_lfs_pointer(path: Path) -> bool:
    if path.stat().st_size > MAX_LFS_POINTER_BYTES:
        return False
    return path.read_bytes().startswith(LFS_HEAD)


def _describe_pointer(path: Path) -> str:
    return f"has a {path.name} that is a pointer of Git LFS: fetch the file itself (`git lfs pull`)"


def _is_whole_safetensors(path: Path) -> bool:
    """Whether the file is as long as its header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if len(head) < 8:
            return False
        (length,) = struct.unpack("<Q", head)
        if length > size - 8:
            return False
        try:
            tensors = json.loads(file.read(length))
            ends = [t["data_offsets"][1] for name, t in tensors.items() if name != "__metadata__"]
        except (ValueError, LookupError, TypeError, AttributeError):
            return False
    return bool(8 + length + max(ends, default=0) == size)


def _missing_shards(folder: Path) -> list[str]:
    index = _read_json(folder / "model.safetensors.index.json").get("weight_map", {})
    names = {str(name) for name in index.values()} if isinstance(index, dict) else set()
    return sorted(name for name in names if not (folder / name).is_file())


def _check_tokenizer(folder: Path, config: dict[str, Any]) -> Iterator[str]:
    n_tokens = _count_tokens(_read_json(folder / "tokenizer.json"))
    n_embeddings = config.get("vocab_size")
    if isinstance(n_embeddings, int) and n_tokens > n_embeddings:
        yield (
            f"has a tokenizer with {n_tokens} tokens, but embeddings for {n_embeddings}: save it "
            "again after `model.resize_token_embeddings(len(tokenizer))`"
        )
    if not _has_end_token(folder, config):
        yield ("has a tokenizer without an end token: set `eos_token` in its tokenizer_config.json")


def _count_tokens(tokenizer: dict[str, Any]) -> int:
    """One more than the largest id in a tokenizer.json; 0 for {}."""
    model, added = tokenizer.get("model"), tokenizer.get("added_tokens")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    ids = [len(vocab) - 1] if isinstance(vocab, list) else []
    if isinstance(vocab, dict):
        ids = [value for value in vocab.values() if isinstance(value, int)]
    if isinstance(added, list):
        ids += [token["id"] for token in added if isinstance(token, dict) and "id" in token]
    return max(ids, default=-1) + 1


def _has_end_token(folder: Path, config: dict[str, Any]) -> bool:
    """Whether the tokenizer has one, or its class brings one. BERT-like bases end at `[SEP]`."""
    settings = _read_json(folder / "tokenizer_config.json")
    special = _read_json(folder / "special_tokens_map.json")
    if settings.get("tokenizer_class") not in NO_DEFAULT_TOKENS:
        return True
    named = {**special, **{key: value for key, value in settings.items() if value}}
    is_encoder_only = not config.get("is_encoder_decoder") and not _is_decoder(config)
    return bool(named.get("eos_token") or (is_encoder_only and named.get("sep_token")))


def _is_decoder(config: dict[str, Any]) -> bool:
    names = config.get("architectures")
    return isinstance(names, list) and any(
        str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in names
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
