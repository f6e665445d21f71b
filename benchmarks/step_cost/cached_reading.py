"""A decoder-only student that reads a question into a key-value cache, from which outputs go on.

The peer that packed rows are measured against: right for models without windows, and for training
in one process alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from qcrd.method.batching import group_by_length, restore_order
from qcrd.method.losses import IGNORE_INDEX, token_cross_entropy
from qcrd.method.student.causal import CausalStudent
from qcrd.method.student.packing import TargetParts, TargetTokens, join_targets, pad_targets


class CachedCausalStudent(CausalStudent):
    def _cross_entropy(
        self,
        prompts: Sequence[list[int]],
        prompt_index: Sequence[int],
        targets: Sequence[TargetParts],
    ) -> tuple[Tensor, Tensor]:
        """All tokens of a prompt but its last are read once; each output continues from there."""
        ids, mask = self._pad_prompts(prompts)
        prefix_mask = mask[:, :-1]
        output = self.model(
            input_ids=ids[:, :-1],
            attention_mask=prefix_mask,
            position_ids=(prefix_mask.cumsum(1) - 1).clamp(min=0),
            use_cache=True,
            logits_to_keep=1,
        )
        layers = [(layer.keys, layer.values) for layer in output.past_key_values.layers]
        groups = group_by_length(
            [len(before) + len(answer) for before, answer in targets],
            max_tokens=self.max_batch_target_tokens,
        )
        parts = []
        for group in groups:
            rows = torch.tensor([prompt_index[i] for i in group])
            own = [targets[i] for i in group]
            parts.append(
                self._continue(
                    [(keys[rows], values[rows]) for keys, values in layers],
                    ids[rows, -1:],
                    prefix_mask[rows],
                    pad_targets(own),
                    join_targets(own),
                )
            )
        return restore_order(parts, [i for group in groups for i in group])

    def _continue(
        self,
        layers: list[tuple[Tensor, Tensor]],
        last_token: Tensor,
        prefix_mask: Tensor,
        targets: Tensor,
        tokens: TargetTokens,
    ) -> tuple[Tensor, Tensor]:
        is_target = targets != IGNORE_INDEX
        read = targets[:, :-1].clamp(min=0)
        first_position = prefix_mask.sum(1, keepdim=True)
        with self._select_places(is_target.flatten().nonzero().squeeze(1)):
            logits = self.model(
                input_ids=torch.cat((last_token, read), 1),
                attention_mask=torch.cat(
                    (prefix_mask, torch.ones_like(last_token), is_target[:, :-1].long()), 1
                ),
                position_ids=first_position + torch.arange(targets.shape[1]),
                past_key_values=DynamicCache(layers, config=self.model.config),
                use_cache=True,
            ).logits
        token_ce = token_cross_entropy(logits, targets[is_target])
        return tokens.sum_by_part(token_ce), tokens.counts
