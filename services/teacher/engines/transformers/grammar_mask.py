"""The mask of tokens that a grammar allows next."""

from __future__ import annotations

from typing import Any, Protocol

import llguidance
import llguidance.hf
import numpy as np
import torch
from torch import Tensor

from qcrd.records.students.answer_form import AnswerForm
from services.teacher.engines import grammars
from services.teacher.engines.base import Grammar
from services.teacher.engines.transformers.weights import LoadedModel


class TokenMatcher(Protocol):
    """What allows or forbids the next token of one output."""

    def compute_mask(self, size: int) -> Tensor:
        """Mask [size] of the tokens that may come next."""

    def accept_token(self, token_id: int) -> None:
        """Take note of the token that came."""


class AnswerMatcher:
    """The answer behind a student's rationale, as its evaluation held it."""

    def __init__(self, form: AnswerForm) -> None:
        self._form = form
        self._said: list[int] = []

    def compute_mask(self, size: int) -> Tensor:
        allowed = self._form.find_allowed(self._said)
        mask = torch.full((size,), not allowed)
        mask[list(allowed or self._form.ends)] = bool(allowed)
        return mask

    def accept_token(self, token_id: int) -> None:
        self._said.append(token_id)


class GrammarMatcher:
    """The grammar of one output. The end token is allowed where the grammar may stop."""

    def __init__(self, tokenizer: Any, grammar: Grammar) -> None:
        self._matcher = llguidance.LLMatcher(tokenizer, grammars.to_lark(grammar))

    def compute_mask(self, size: int) -> Tensor:
        """Mask [size] of the tokens that may come next."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        mask = np.unpackbits(bits, bitorder="little")[:size].astype(bool)
        return torch.from_numpy(np.pad(mask, (0, size - len(mask))))

    def accept_token(self, token_id: int) -> None:
        self._matcher.consume_token(token_id)


def build_grammar_tokenizer(model: LoadedModel) -> Any | None:
    """The tokenizer in the form grammars need; takes a second. None for a slow tokenizer or one
    of a kind that llguidance cannot take apart, such as BERT's WordPiece.
    """
    if not model.tokenizer.is_fast:
        return None
    try:
        return llguidance.hf.from_tokenizer(
            model.tokenizer, eos_token=sorted(model.eos_token_ids) or None
        )
    except ValueError:
        return None
