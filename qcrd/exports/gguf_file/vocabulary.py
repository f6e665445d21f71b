"""A student's tokenizer in GGUF: tokens, merges, control tokens, and what splits a text first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gguf

from qcrd.errors import Invalid

GPT2_WORDS, LLAMA3_WORDS, QWEN2_WORDS, SMOLLM_WORDS = "gpt-2", "llama-bpe", "qwen2", "smollm"
"""llama.cpp's names of ways to split a text into words."""
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS: Mapping[str, str] = {
    _WORDS % r"\p{N}{1,3}": LLAMA3_WORDS,
    _WORDS % r"\p{N}": QWEN2_WORDS,
}
UNREACHED_SCORE = -1e6
"""Of a token that no merge makes."""


@dataclass(frozen=True)
class Vocabulary:
    """`tokens` with their `types` by id; `words`: how a text is split before merging, None in a
    SentencePiece vocabulary, which has `scores` in place of `merges`."""

    tokens: tuple[str, ...]
    types: tuple[gguf.TokenType, ...]
    words: str | None
    merges: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    space_prefix: bool = False


def read_vocabulary(tokenizer: Any, size: int) -> Vocabulary:
    """The vocabulary of a fast tokenizer for a model of `size` tokens. `Invalid`, with the reason,
    for one that llama.cpp would read in another way."""
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    model = described["model"]
    if model["type"] != "BPE":
        raise _refuse(f"it is a {model['type']} vocabulary, and llama.cpp reads BPE ones")
    if len(tokenizer) > size:
        raise _refuse(f"it has {len(tokenizer)} tokens, and the model {size}")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    added = {token["id"]: token for token in described["added_tokens"]}
    tokens, types = _list_tokens(model, added, size)
    if model["byte_fallback"]:
        scores = {
            merge.replace(" ", ""): -float(rank) for rank, merge in reversed([*enumerate(merges)])
        }
        return Vocabulary(
            tokens,
            types,
            words=None,
            scores=tuple(scores.get(token, UNREACHED_SCORE) for token in tokens),
            space_prefix=_has_space_prefix(described),
        )
    return Vocabulary(tokens, types, _find_words(described), tuple(merges))


def _list_tokens(
    model: Mapping[str, Any], added: Mapping[int, Mapping[str, Any]], size: int
) -> tuple[tuple[str, ...], tuple[gguf.TokenType, ...]]:
    by_id = {index: token for token, index in model["vocab"].items()}
    tokens, types = list[str](), list[gguf.TokenType]()
    for index in range(size):
        if index in added:
            token, is_control = added[index]["content"], added[index]["special"]
            kind = gguf.TokenType.CONTROL if is_control else gguf.TokenType.USER_DEFINED
        elif index in by_id:
            token, kind = by_id[index], gguf.TokenType.NORMAL
            if model["byte_fallback"] and len(token) == 6 and token.startswith("<0x"):
                kind = gguf.TokenType.BYTE
        else:
            # Rows of the embedding that its makers rounded up to, which no text gives.
            token, kind = f"[PAD{index}]", gguf.TokenType.UNUSED
        if token == model["unk_token"] and model["byte_fallback"]:
            kind = gguf.TokenType.UNKNOWN
        tokens.append(token)
        types.append(kind)
    return tuple(tokens), tuple(types)


def _find_words(described: Mapping[str, Any]) -> str:
    """llama.cpp's name of a byte-level tokenizer's way to split a text."""
    normalizer = described["normalizer"]
    if normalizer is not None and normalizer["type"] != "NFC":
        raise _refuse(f"it changes texts first ({normalizer['type']})")
    steps = _list_steps(described["pre_tokenizer"])
    if not steps or steps[-1]["type"] != "ByteLevel" or steps[-1]["add_prefix_space"]:
        raise _refuse(f"it splits texts by {_describe(steps)}")
    *before, last = steps
    words = None
    if last["use_regex"] and not before:
        words = GPT2_WORDS
    elif last["use_regex"] and before[0] == {"type": "Digits", "individual_digits": True}:
        words = SMOLLM_WORDS
    elif len(before) == 1 and before[0]["type"] == "Split" and not last["use_regex"]:
        words = PATTERNS.get(before[0]["pattern"].get("Regex", ""))
    ignores_merges = bool(described["model"].get("ignore_merges"))
    if words is None or ignores_merges != (words == LLAMA3_WORDS):
        raise _refuse(f"it splits texts by {_describe(steps)}")
    return words


def _has_space_prefix(described: Mapping[str, Any]) -> bool:
    steps = _list_steps(described["normalizer"]) + _list_steps(described["pre_tokenizer"])
    return any(
        step["type"] == "Prepend" or step.get("prepend_scheme", "never") != "never"
        for step in steps
    )


def _list_steps(part: Any) -> list[dict[str, Any]]:
    if part is None:
        return []
    return list(part.get("pretokenizers") or part.get("normalizers") or [part])


def _describe(steps: Sequence[Mapping[str, Any]]) -> str:
    shown = " and ".join(str(step["type"]) for step in steps) or "nothing"
    return f"{shown} in a way that llama.cpp has no name for"


def add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary, tokenizer: Any) -> None:
    """The vocabulary, what the tokenizer puts around a text, and its chat template."""
    if vocabulary.words is None:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(vocabulary.scores)
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(vocabulary.words)
        writer.add_token_merges(vocabulary.merges)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_add_space_prefix(vocabulary.space_prefix)
    framed: list[int] = tokenizer("a").input_ids
    begins = tokenizer.bos_token_id is not None and framed[0] == tokenizer.bos_token_id
    ends = tokenizer.eos_token_id is not None and framed[-1] == tokenizer.eos_token_id
    writer.add_add_bos_token(begins)
    writer.add_add_eos_token(ends)
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    if tokenizer.unk_token_id is not None:
        writer.add_unk_token_id(tokenizer.unk_token_id)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _refuse(reason: str) -> Invalid:
    return Invalid(
        f"--format: this student's tokenizer is not written to GGUF: {reason}",
        param="format",
        code="export_unsupported",
    )
