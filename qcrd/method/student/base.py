"""One interface to the student, whether it is a seq2seq or a decoder-only model.

Losses are asked for by prompt and target; a prompt is read once for all of its targets in a call.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qcrd.method.batching import group_by_length
from qcrd.method.compute import has_bf16
from qcrd.method.losses import token_cross_entropy
from qcrd.method.student.outputs import StudentOutputs
from qcrd.method.student.packing import TargetParts
from qcrd.method.student.targets import Target

Weights = Mapping[str, Tensor]
TokenLoss = Callable[[Tensor, Tensor], Tensor]
"""(logits [P, V], labels [P]) -> loss of each token [P]."""


MAX_BATCH_TARGET_TOKENS = 8192
"""Padded target positions per forward pass; bounds its memory, not its result."""


class Student(StudentOutputs):
    """A causal or seq2seq model with its tokenizer: what it makes of given outputs, its losses.

    `length_groups`: a call of the model is parted where lengths differ much, which saves padding on
    a CPU and launches on a GPU where it is not. `one_call`: losses are always one call of the
    model, whatever there is, as ranks that shard it must do.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_batch_target_tokens: int = MAX_BATCH_TARGET_TOKENS,
        **limits: Any,
    ) -> None:
        super().__init__(model, tokenizer, **limits)
        self.max_batch_target_tokens = max_batch_target_tokens
        self.length_groups = self.device.type == "cpu"
        self.one_call = False
        self.token_loss: TokenLoss = token_cross_entropy

    @abstractmethod
    def _cross_entropy(
        self,
        prompts: Sequence[list[int]],
        prompt_index: Sequence[int],
        targets: Sequence[TargetParts],
    ) -> tuple[Tensor, Tensor]:
        """`part_cross_entropy` of token ids; no prompt and no target is empty."""

    def cross_entropy(
        self, prompts: Sequence[str], prompt_index: Sequence[int], targets: Sequence[Target]
    ) -> tuple[Tensor, Tensor]:
        """Summed cross entropy and token count of each target, both [M]; see
        `part_cross_entropy`."""
        sums, counts = self.part_cross_entropy(prompts, prompt_index, targets)
        return sums.sum(1), counts.sum(1)

    def part_cross_entropy(
        self, prompts: Sequence[str], prompt_index: Sequence[int], targets: Sequence[Target]
    ) -> tuple[Tensor, Tensor]:
        """Summed cross entropy and token count of what stands before each target's answer, and of
        the answer with the end: both [M, 2].

        Target m follows `prompts[prompt_index[m]]`. One call of the model, or as many as the
        limit of `max_batch_target_tokens` and groups of like length make of it.
        """
        if not targets:
            nothing = torch.zeros(0, 2, device=self.device)
            if not self.one_call:
                return nothing, nothing
            with self.uncounted():  # one token, which enters no sum
                sums, counts = self._cross_entropy([[self.filler]], [0], [([self.filler], [])])
            return sums[:0], counts[:0]
        return self._cross_entropy(
            self.tokenize_prompts(prompts),
            prompt_index,
            [self.tokenize_parts(target) for target in targets],
        )

    @contextmanager
    def losing(self, token_loss: TokenLoss) -> Iterator[None]:
        """What is summed meanwhile is this loss of the tokens, in place of their cross entropy."""
        before, self.token_loss = self.token_loss, token_loss
        try:
            yield
        finally:
            self.token_loss = before

    def _group(self, lengths: Sequence[int]) -> list[list[int]]:
        """Indices of rows that share a call of the model."""
        if self.one_call:
            return [list(range(len(lengths)))]
        return group_by_length(
            lengths, max_tokens=self.max_batch_target_tokens, similar=self.length_groups
        )

    @contextmanager
    def _select_places(self, places: Tensor) -> Iterator[None]:
        """The output head sees only `places` [P] of the [B * T] that the model computes; its logits
        are then [P, V].

        It is the largest matrix of a small student, and batches are padded.
        """
        head = self.model.get_output_embeddings()
        hook = head.register_forward_pre_hook(
            lambda _, args: (args[0].flatten(0, 1)[places], *args[1:])
        )
        try:
            yield
        finally:
            hook.remove()

    def mean_cross_entropy(
        self, prompts: Sequence[str], prompt_index: Sequence[int], targets: Sequence[Target]
    ) -> Tensor:
        """Mean token cross entropy of each target [M], without gradients and without dropout."""
        # Scores only rank candidates: bf16 is exact enough where it is faster.
        with self._evaluating(bf16=self.bf16 or has_bf16(self.device)):
            total, count = self.cross_entropy(prompts, prompt_index, targets)
        return total / count

    def score_sums(
        self, prompts: Sequence[str], prompt_index: Sequence[int], targets: Sequence[Target]
    ) -> tuple[Tensor, Tensor]:
        """`cross_entropy` without gradients and without dropout, in full precision."""
        with self._evaluating(bf16=False):
            return self.cross_entropy(prompts, prompt_index, targets)

    def answer_cross_entropy(self, prompts: Sequence[str], targets: Sequence[Target]) -> Tensor:
        """Mean token cross entropy of each target's answer and end, given its prompt and its text:
        [N], without gradients and without dropout. Target i follows prompt i."""
        # Students are compared by it, so in full precision.
        with self._evaluating(bf16=False):
            sums, counts = self.part_cross_entropy(prompts, range(len(prompts)), targets)
        return sums[:, 1] / counts[:, 1]
