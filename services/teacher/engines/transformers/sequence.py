"""One sequence being generated, and from its logits to its next token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from services.teacher.engines.base import EngineFinishReason, Token, ValidGenerateRequest
from services.teacher.engines.transformers.detokenizer import Detokenizer
from services.teacher.engines.transformers.grammar_mask import Constraint
from services.teacher.engines.transformers.sampling import choose
from services.teacher.engines.transformers.weights import Model

BASE = "__base__"
"""peft's name for the model without an adapter."""


@dataclass
class Row:
    """One sequence of a batch."""

    request: ValidGenerateRequest
    prompt: Sequence[int]
    detokenizer: Detokenizer
    generator: torch.Generator
    constraint: Constraint | None = None
    adapter: str = BASE
    generated: list[int] = field(default_factory=list)


def new_row(
    model: Model, request: ValidGenerateRequest, constraint: Constraint | None = None
) -> Row:
    def decode(ids: Sequence[int]) -> str:
        return str(model.tokenizer.decode(ids, skip_special_tokens=True))

    generator = torch.Generator()
    # torch takes seeds up to 2^64 - 1, as TGI does.
    generator.manual_seed(request.sampling.seed or 0)
    adapter = request.adapter_id if request.adapter_id in model.adapters else None
    return Row(
        request,
        request.prompt_token_ids or (),
        Detokenizer(decode),
        generator,
        constraint,
        adapter or BASE,
    )


def next_token(model: Model, row: Row, scores: Tensor) -> Token:
    """The token after raw `scores` [V]; the row remembers it."""
    request = row.request
    chosen, logprobs = choose(
        scores,
        request.sampling,
        prompt=row.prompt,
        generated=row.generated,
        generator=row.generator,
        allowed=None if row.constraint is None else row.constraint.allowed(len(scores)),
    )
    row.generated.append(chosen)
    if row.constraint is not None:
        row.constraint.took(chosen)
    ends: EngineFinishReason | None = "eos_token" if chosen in model.eos else None
    special = ends is not None or chosen in model.special
    text = shown(model, chosen) if special else row.detokenizer.add(chosen)
    top: tuple[Token, ...] = ()
    if request.top_n_tokens:
        best = logprobs.topk(request.top_n_tokens)
        top = tuple(
            # What sampling or a grammar rules out has no likelihood to tell.
            Token(i, shown(model, i), value if math.isfinite(value) else None)
            for i, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        )
    return Token(
        chosen, text, float(logprobs[chosen]), special=special, finish_reason=ends, top_tokens=top
    )


@torch.inference_mode()
def score(model: Model, request: ValidGenerateRequest) -> list[Token]:
    """The prompt's tokens with the log-probability of each after those before it; the first has
    none.
    """
    row = new_row(model, request)
    ids = torch.tensor([list(row.prompt)], device=model.net.device)
    logprobs = network(model, [row])(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
    told = logprobs.gather(-1, ids[0, 1:, None])[:, 0].tolist()
    return [
        Token(i, shown(model, i), value) for i, value in zip(row.prompt, [None, *told], strict=True)
    ]


def shown(model: Model, token_id: int) -> str:
    return str(model.tokenizer.decode([token_id]))


def network(model: Model, rows: Sequence[Row]) -> Any:
    """The model to call for `rows`: with peft, each row through its own adapter."""
    if not model.adapters:
        return model.net

    def call(**inputs: Any) -> Any:
        return model.net(**inputs, adapter_names=[row.adapter for row in rows])

    return call
