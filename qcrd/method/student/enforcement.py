"""Holds what transformers generates to a form: an answer behind its rationale, a beginning."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from qcrd.records.students.answer_form import AnswerForm


class AnswerEnforcer(LogitsProcessor):
    """Lets an output be a rationale, the mark and one of the options. `start`: the place of its
    first token in the ids that a step is given."""

    def __init__(self, form: AnswerForm, start: int) -> None:
        self._form = form
        self._start = start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        for index, said in enumerate(input_ids[:, self._start :].tolist()):
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
