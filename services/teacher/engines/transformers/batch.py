"""A batch of sequences through an encoder-decoder, or a decoder that
continuous batching does not support.

Decoder-only prompts are padded on the left, encoder inputs on the right; sequences leave the
batch when they are done and the key-value cache shrinks with them. `StaticBatches` runs several of
these at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from services.teacher.engines.base import Token
from services.teacher.engines.transformers.sequence import (
    SequenceState,
    append_next_tokens,
    bind_adapters,
)
from services.teacher.engines.transformers.weights import LoadedModel


class StaticBatch:
    """`step` returns the next token of every sequence, `remove` takes sequences out."""

    def __init__(self, model: LoadedModel, sequences: list[SequenceState]) -> None:
        self._model = model
        self.sequences = sequences
        self._cache: Any = None
        self._encoder_outputs: Any = None
        self._input_ids, self._attention_mask = _pad(
            [sequence.prompt for sequence in sequences],
            pad=model.tokenizer.pad_token_id or 0,
            left=not model.seq2seq,
            device=model.net.device,
        )

    @torch.inference_mode()
    def step(self) -> list[Token]:
        logits = (self._forward_seq2seq if self._model.seq2seq else self._forward_decoder)()
        return append_next_tokens(self._model, self.sequences, logits)

    def remove(self, removed: list[int]) -> list[int]:
        """Drop the sequences at `removed` and their cache; the remaining ones' former indices."""
        kept = [index for index in range(len(self.sequences)) if index not in removed]
        if not removed:
            return kept
        self.sequences = [self.sequences[i] for i in kept]
        if not kept:
            return kept
        kept_indices = torch.tensor(kept, device=self._attention_mask.device)
        self._attention_mask = self._attention_mask[kept_indices]
        self._cache.batch_select_indices(kept_indices)
        if self._encoder_outputs is not None:
            self._encoder_outputs.last_hidden_state = self._encoder_outputs.last_hidden_state[
                kept_indices
            ]
        return kept

    def _last_token_ids(self) -> Tensor:
        ids = [[sequence.generated[-1]] for sequence in self.sequences]
        return torch.tensor(ids, device=self._attention_mask.device)

    def _forward_decoder(self) -> Tensor:
        """Logits [N, V] of a decoder-only model: the prompt first, then one token at a time."""
        inputs = self._input_ids
        if self._cache is not None:
            inputs = self._last_token_ids()
            self._attention_mask = torch.cat([self._attention_mask, torch.ones_like(inputs)], dim=1)
        positions = (self._attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -inputs.shape[1] :]
        out = bind_adapters(self._model, self.sequences)(
            input_ids=inputs,
            attention_mask=self._attention_mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache = out.past_key_values
        return _last_logits(out)

    def _forward_seq2seq(self) -> Tensor:
        """Logits [N, V] of an encoder-decoder: the encoder runs once."""
        net = self._model.net
        if self._cache is None:
            self._encoder_outputs = net.get_encoder()(
                input_ids=self._input_ids, attention_mask=self._attention_mask
            )
            start = net.config.decoder_start_token_id
            inputs = torch.full((len(self.sequences), 1), start, device=self._attention_mask.device)
        else:
            inputs = self._last_token_ids()
        out = bind_adapters(self._model, self.sequences)(
            encoder_outputs=self._encoder_outputs,
            attention_mask=self._attention_mask,
            decoder_input_ids=inputs,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache = out.past_key_values
        return _last_logits(out)


def _last_logits(out: Any) -> Tensor:
    logits: Tensor = out.logits
    return logits[:, -1]


def _pad(
    prompts: Sequence[Sequence[int]], *, pad: int, left: bool, device: Any
) -> tuple[Tensor, Tensor]:
    """Ids and mask [N, T] of prompts of different lengths."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        columns = slice(width - len(prompt), width) if left else slice(0, len(prompt))
        ids[i, columns] = torch.tensor(prompt)
        mask[i, columns] = 1
    return ids.to(device), mask.to(device)
