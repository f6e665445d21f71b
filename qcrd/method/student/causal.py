"""A decoder-only student: the question is a prefix whose key-value cache its targets share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from qcrd.method.student.base import EncodedPrompts, Student


class CausalStudent(Student):
    """SmolLM2, Qwen, Llama and their like: prompt and output in one sequence."""

    suffix = "\nAnswer:"

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **limits: int
    ) -> None:
        tokenizer.padding_side = "left"
        tokenizer.truncation_side = "left"
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        super().__init__(model, tokenizer, **limits)

    def _count_parameters(self) -> tuple[int, int]:
        total = sum(p.numel() for p in self.model.parameters())
        embedding = self.model.get_input_embeddings().weight
        tied = embedding is self.model.get_output_embeddings().weight
        per_token = total if tied else total - embedding.numel()
        return per_token, per_token

    def _encode(self, ids: Tensor, mask: Tensor) -> EncodedPrompts:
        """The cache of all tokens but the last, from which the first output token is predicted."""
        prefix, prefix_mask = ids[:, :-1], mask[:, :-1]
        output = self.model(
            input_ids=prefix,
            attention_mask=prefix_mask,
            position_ids=(prefix_mask.cumsum(1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        layers = [(layer.keys, layer.values) for layer in output.past_key_values.layers]
        return EncodedPrompts(tuple(t for pair in layers for t in pair), prefix_mask, ids[:, -1])

    def _compute_logits(self, encoded: EncodedPrompts, targets: Tensor, mask: Tensor) -> Tensor:
        assert encoded.last_token is not None
        first_token = encoded.last_token[:, None]
        key_values = list(zip(encoded.states[::2], encoded.states[1::2], strict=True))
        positions = encoded.mask.sum(1, keepdim=True) + torch.arange(
            targets.shape[1], device=targets.device
        )
        output = self.model(
            input_ids=torch.cat((first_token, targets[:, :-1]), 1),
            attention_mask=torch.cat((encoded.mask, torch.ones_like(first_token), mask[:, :-1]), 1),
            position_ids=positions,
            past_key_values=DynamicCache(key_values, config=self.model.config),
            use_cache=True,
        )
        logits: Tensor = output.logits
        return logits

    def _tokenize_target(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(" " + text, add_special_tokens=False).input_ids
        return [*ids, self.tokenizer.eos_token_id]

    def _tokenize_prompts(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        return super()._tokenize_prompts([prompt + self.suffix for prompt in prompts])

    def _completion_start(self, ids: Tensor) -> int:
        return ids.shape[1]
