"""A decoder-only student: the question is a prefix whose key-value cache its targets share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from qcrd.method.student.base import Reading, Student


class CausalStudent(Student):
    """SmolLM2, Qwen, Llama and their like: prompt and answer in one sequence."""

    suffix = "\nAnswer:"

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **limits: int
    ) -> None:
        tokenizer.padding_side = "left"
        tokenizer.truncation_side = "left"
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        super().__init__(model, tokenizer, **limits)

    def _parameters(self) -> tuple[int, int]:
        total = sum(p.numel() for p in self.model.parameters())
        embedded = self.model.get_input_embeddings().weight
        tied = embedded is self.model.get_output_embeddings().weight
        through = total if tied else total - embedded.numel()
        return through, through

    def _read(self, ids: Tensor, mask: Tensor) -> Reading:
        """The cache of all tokens but the last, from which the first answer token is predicted."""
        prefix, seen = ids[:, :-1], mask[:, :-1]
        output = self.model(
            input_ids=prefix,
            attention_mask=seen,
            position_ids=(seen.cumsum(1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        layers = [(layer.keys, layer.values) for layer in output.past_key_values.layers]
        return Reading(tuple(t for pair in layers for t in pair), seen, ids[:, -1])

    def _logits(self, reading: Reading, targets: Tensor, mask: Tensor) -> Tensor:
        assert reading.last is not None
        start = reading.last[:, None]
        pairs = list(zip(reading.states[::2], reading.states[1::2], strict=True))
        positions = reading.mask.sum(1, keepdim=True) + torch.arange(
            targets.shape[1], device=targets.device
        )
        output = self.model(
            input_ids=torch.cat((start, targets[:, :-1]), 1),
            attention_mask=torch.cat((reading.mask, torch.ones_like(start), mask[:, :-1]), 1),
            position_ids=positions,
            past_key_values=DynamicCache(pairs, config=self.model.config),
            use_cache=True,
        )
        logits: Tensor = output.logits
        return logits

    def _target_ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(" " + text, add_special_tokens=False).input_ids
        return [*ids, self.tokenizer.eos_token_id]

    def _question_ids(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        return super()._question_ids([prompt + self.suffix for prompt in prompts])

    def _generated_from(self, ids: Tensor) -> int:
        return ids.shape[1]
