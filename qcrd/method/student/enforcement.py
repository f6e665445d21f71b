"""Holds what transformers generates to a form: an answer behind its rationale, a beginning."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from qcrd.records.students.answer_form import AnswerForm


class AnswerEnforcer(LogitsProcessor):
    """Lets an output be a rationale, the mark and one of the options. `starts`: the place of each
    row's first token of it in the ids that a step is given."""

    def __init__(self, form: AnswerForm, starts: Sequence[int]) -> None:
        self._form = form
        self._starts = starts

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        rows = zip(input_ids.tolist(), self._starts, strict=True)
        for index, said in enumerate(row[start:] for row, start in rows):
            if allowed := self._form.find_allowed(said):
                tokens = torch.tensor(sorted(allowed), device=scores.device)
                kept = scores[index, tokens]
                scores[index] = -torch.inf
                scores[index, tokens] = kept
            else:
                scores[index, list(self._form.ends)] = -torch.inf
        return scores


class BeginningEnforcer(LogitsProcessor):
    """Has each row's output begin with given tokens, which may be none. It goes last: what it asks
    for is said whatever else is ruled out."""

    def __init__(self, beginnings: Sequence[Sequence[int]], start: int) -> None:
        self._beginnings = beginnings
        self._start = start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        place = input_ids.shape[1] - self._start
        rows = [i for i, tokens in enumerate(self._beginnings) if place < len(tokens)]
        if not rows:
            return scores
        scores = scores.clone()
        scores[rows] = -torch.inf
        scores[rows, [self._beginnings[i][place] for i in rows]] = 0.0
        return scores
