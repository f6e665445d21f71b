"""The state of one sequence, and the token that is appended to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from services.teacher.engines.base import EngineFinishReason, Token, ValidGenerateRequest
from services.teacher.engines.transformers.detokenizer import Detokenizer
from services.teacher.engines.transformers.grammar_mask import TokenMatcher
from services.teacher.engines.transformers.sampling import (
    SampledToken,
    SamplingRow,
    sample_tokens,
)
from services.teacher.engines.transformers.weights import LoadedModel

BASE_ADAPTER = "__base__"
"""peft's name for the model without an adapter."""


@dataclass
class SequenceState:
    """One sequence of a batch."""

    request: ValidGenerateRequest
    prompt: Sequence[int]
    detokenizer: Detokenizer
    grammar_matcher: TokenMatcher | None = None
    adapter: str = BASE_ADAPTER
    generated: list[int] = field(default_factory=list)


def create_sequence(
    model: LoadedModel, request: ValidGenerateRequest, grammar_matcher: TokenMatcher | None = None
) -> SequenceState:
    def decode(ids: Sequence[int]) -> str:
        return str(model.tokenizer.decode(ids, skip_special_tokens=True))

    adapter = request.adapter_id if request.adapter_id in model.adapters else None
    return SequenceState(
        request,
        request.prompt_token_ids or (),
        Detokenizer(decode),
        grammar_matcher,
        adapter or BASE_ADAPTER,
    )


def append_next_tokens(
    model: LoadedModel, sequences: Sequence[SequenceState], logits: Tensor
) -> list[Token]:
    """The token of each sequence chosen from the raw `logits` [N, V], appended to it."""
    rows = [
        SamplingRow(
            sequence.request.sampling,
            sequence.prompt,
            sequence.generated,
            None
            if sequence.grammar_matcher is None
            else sequence.grammar_matcher.compute_mask(logits.shape[1]),
            sequence.request.top_n_tokens,
            sequence.request.tells_free_logprobs,
        )
        for sequence in sequences
    ]
    return [
        _append_token(model, sequence, sampled)
        for sequence, sampled in zip(sequences, sample_tokens(logits, rows), strict=True)
    ]


def _append_token(model: LoadedModel, sequence: SequenceState, sampled: SampledToken) -> Token:
    chosen = sampled.id
    sequence.generated.append(chosen)
    if sequence.grammar_matcher is not None:
        sequence.grammar_matcher.accept_token(chosen)
    finish_reason: EngineFinishReason | None = (
        "eos_token" if chosen in model.eos_token_ids else None
    )
    special = finish_reason is not None or chosen in model.special_token_ids
    text = decode_token(model, chosen) if special else sequence.detokenizer.add(chosen)
    return Token(
        chosen,
        text,
        sampled.logprob,
        special=special,
        finish_reason=finish_reason,
        top_tokens=tuple(
            # A token that sampling or a grammar rules out has no finite log-probability.
            Token(i, decode_token(model, i), value if math.isfinite(value) else None)
            for i, value in sampled.top
        ),
        free_logprob=sampled.free_logprob,
    )


@torch.inference_mode()
def score_prompt(model: LoadedModel, request: ValidGenerateRequest) -> list[Token]:
    """The prompt's tokens with the log-probability of each after those before it; the first has
    none.
    """
    sequence = create_sequence(model, request)
    ids = torch.tensor([list(sequence.prompt)], device=model.net.device)
    logprobs = (
        bind_adapters(model, [sequence])(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
    )
    token_logprobs = logprobs.gather(-1, ids[0, 1:, None])[:, 0].tolist()
    return [
        Token(i, decode_token(model, i), value)
        for i, value in zip(sequence.prompt, [None, *token_logprobs], strict=True)
    ]


def decode_token(model: LoadedModel, token_id: int) -> str:
    return str(model.tokenizer.decode([token_id]))


def bind_adapters(model: LoadedModel, sequences: Sequence[SequenceState]) -> Any:
    """The model to call for `sequences`: with peft, each runs through its own adapter."""
    if not model.adapters:
        return model.net

    def call(**inputs: Any) -> Any:
        return model.net(**inputs, adapter_names=[sequence.adapter for sequence in sequences])

    return call
