"""Holds what transformers generates to the form of an answer behind its rationale."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessor

from qcrd.records.answer_form import AnswerForm


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
