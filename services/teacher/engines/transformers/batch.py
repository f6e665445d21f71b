"""A batch of sequences through an encoder-decoder, or a model that `continuous` does not suit.

Decoder-only prompts are padded on the left, encoder inputs on the right; rows leave the batch when
they are done and the key-value cache shrinks with them. `cohorts` runs several of these at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from services.teacher.engines.base import Token
from services.teacher.engines.transformers.sequence import Row, network, next_token
from services.teacher.engines.transformers.weights import Model


class Batch:
    """`step` gives the next token of every row in `rows`, `leave` ends rows."""

    def __init__(self, model: Model, rows: list[Row]) -> None:
        self._model = model
        self.rows = rows
        self._cache: Any = None
        self._encoded: Any = None
        self._inputs, self._mask = _padded(
            [row.prompt for row in rows],
            pad=model.tokenizer.pad_token_id or 0,
            left=not model.seq2seq,
            device=model.net.device,
        )

    @torch.inference_mode()
    def step(self) -> list[Token]:
        logits = (self._decode if self._model.seq2seq else self._continue)()
        return [
            next_token(self._model, row, scores)
            for row, scores in zip(self.rows, logits, strict=True)
        ]

    def leave(self, places: list[int]) -> list[int]:
        """Drop the rows at `places` and their memory. The places the remaining rows had."""
        indices = [place for place in range(len(self.rows)) if place not in places]
        if not places:
            return indices
        self.rows = [self.rows[i] for i in indices]
        if not indices:
            return indices
        chosen = torch.tensor(indices, device=self._mask.device)
        self._mask = self._mask[chosen]
        self._cache.batch_select_indices(chosen)
        if self._encoded is not None:
            self._encoded.last_hidden_state = self._encoded.last_hidden_state[chosen]
        return indices

    def _last(self) -> Tensor:
        ids = [[row.generated[-1]] for row in self.rows]
        return torch.tensor(ids, device=self._mask.device)

    def _continue(self) -> Tensor:
        """Logits [rows, V] of a decoder-only model: the prompt first, then one token at a time."""
        inputs = self._inputs
        if self._cache is not None:
            inputs = self._last()
            self._mask = torch.cat([self._mask, torch.ones_like(inputs)], dim=1)
        positions = (self._mask.cumsum(-1) - 1).clamp(min=0)[:, -inputs.shape[1] :]
        out = network(self._model, self.rows)(
            input_ids=inputs,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache = out.past_key_values
        return _last_logits(out)

    def _decode(self) -> Tensor:
        """Logits [rows, V] of an encoder-decoder: the encoder runs once."""
        net = self._model.net
        if self._cache is None:
            self._encoded = net.get_encoder()(input_ids=self._inputs, attention_mask=self._mask)
            start = net.config.decoder_start_token_id
            inputs = torch.full((len(self.rows), 1), start, device=self._mask.device)
        else:
            inputs = self._last()
        out = network(self._model, self.rows)(
            encoder_outputs=self._encoded,
            attention_mask=self._mask,
            decoder_input_ids=inputs,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache = out.past_key_values
        return _last_logits(out)


def _last_logits(out: Any) -> Tensor:
    logits: Tensor = out.logits
    return logits[:, -1].float().cpu()


def _padded(
    prompts: Sequence[Sequence[int]], *, pad: int, left: bool, device: Any
) -> tuple[Tensor, Tensor]:
    """Ids and mask [N, T] of prompts of different lengths."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(prompts):
        place = slice(width - len(prompt), width) if left else slice(0, len(prompt))
        ids[i, place] = torch.tensor(prompt)
        mask[i, place] = 1
    return ids.to(device), mask.to(device)
