"""A student's model with the count of the work that it has done."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qcrd.method.compute import count_flops
from qcrd.method.distributed.ranks import Ranks, SingleRank
from qcrd.method.student import generation
from qcrd.method.student.texts import StudentTexts


class CountedModel(StudentTexts):
    """`flops` counts the work done so far, `tokens` what was read and predicted for it, without
    padding; `bf16` says whether matrix products are done in that precision (weights and losses are
    fp32). `ranks` share what is sampled."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_question_tokens: int,
        max_target_tokens: int,
        max_answer_tokens: int = 0,
        max_output_tokens: int | None = None,
    ) -> None:
        super().__init__(
            tokenizer,
            max_question_tokens=max_question_tokens,
            max_target_tokens=max_target_tokens,
            max_answer_tokens=max_answer_tokens,
            max_output_tokens=max_output_tokens,
        )
        # Any: transformers builds most of a model's interface at run time.
        self.model: Any = model
        self.flops = 0.0
        self.tokens = 0.0
        self.bf16 = False
        self.ranks: Ranks = SingleRank()
        generation.reset_generation_config(model, tokenizer.eos_token_id)
        self._encoder_parameter_count, self._decoder_parameter_count = self._count_parameters()

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @abstractmethod
    def _count_parameters(self) -> tuple[int, int]:
        """Parameters that a question's token passes through, and those that a target's does."""

    def encoder_parameters(self) -> list[torch.nn.Parameter]:
        """The parameters that read questions."""
        return list(self.model.parameters())

    def autocast(self) -> torch.autocast:
        """Matrix products in bf16 where this student trains, or scores, in it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    @contextmanager
    def _evaluating(self, *, bf16: bool) -> Iterator[None]:
        """Without gradients and without dropout, matrix products in the precision asked for."""
        was_training, was_bf16 = self.model.training, self.bf16
        self.model.eval()
        self.bf16 = bf16
        try:
            with torch.no_grad():
                yield
        finally:
            self.bf16 = was_bf16
            self.model.train(was_training)

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """What is done meanwhile is in neither `flops` nor `tokens`."""
        flops, tokens = self.flops, self.tokens
        try:
            yield
        finally:
            self.flops, self.tokens = flops, tokens

    def _pad_prompts(self, prompts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Token ids and mask [N, S], padded on the tokenizer's side."""
        batch = self.tokenizer.pad({"input_ids": list(prompts)}, return_tensors="pt")
        return batch.input_ids.to(self.device), batch.attention_mask.to(self.device)

    def _count_work(self, parameters: int, tokens: int) -> None:
        self.flops += count_flops(parameters, tokens)
        self.tokens += tokens
