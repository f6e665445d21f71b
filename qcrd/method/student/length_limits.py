"""The limits of a student's texts, within the positions that its model has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OFFSET_POSITIONS = {"roberta", "xlm-roberta", "camembert", "roberta-prelayernorm", "xmod", "mpnet"}
"""Architectures whose first token has the position behind that of the padding token."""


def fit_encoder_decoder(config: Any, limits: Mapping[str, int]) -> dict[str, int]:
    """The limits within the positions of encoder and decoder, where those are absolute."""
    encoder, decoder = getattr(config, "encoder", config), getattr(config, "decoder", config)
    questions = limits["max_question_tokens"]
    return {
        "max_question_tokens": min(questions, _count_positions(encoder) or questions),
        **_fit_output(limits, _count_positions(decoder)),
    }


def fit_window(config: Any, limits: Mapping[str, int]) -> dict[str, int]:
    """The limits of a decoder-only model, whose window holds question and output: the output gets
    what it asks for, at most half of the window, and the question the rest."""
    window = _count_positions(config)
    if window is None:
        return {**limits, **_fit_output(limits, None)}
    output = _fit_output(limits, window // 2)
    rest = window - output["max_output_tokens"]
    return {"max_question_tokens": min(limits["max_question_tokens"], rest), **output}


def _fit_output(limits: Mapping[str, int], positions: int | None) -> dict[str, int]:
    """The limits of a rationale, of an answer, and of both in one output."""
    target, answer = limits["max_target_tokens"], limits["max_answer_tokens"]
    positions = positions or target + answer
    return {
        "max_target_tokens": min(target, positions),
        "max_answer_tokens": min(answer, positions),
        "max_output_tokens": min(target + answer, positions),
    }


def _count_positions(config: Any) -> int | None:
    """How many tokens the model has positions for; None for relative ones, which have no limit."""
    positions: int | None = getattr(config, "max_position_embeddings", None)
    if positions and config.model_type in OFFSET_POSITIONS:
        return positions - (config.pad_token_id or 0) - 1
    return positions
