"""A batch of sequences through a transformers model, one token for each per step.

Decoder-only prompts are padded on the left, encoder inputs on the right; rows leave the batch when
they are done and the key-value cache shrinks with them. New rows do not join a running batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from services.teacher.engines.base import Ends, Generation, Token
from services.teacher.engines.detokenize import Detokenizer
from services.teacher.engines.sampling import choose

# Models with relative positions (T5) state no limit; this is the longest T5 was trained for.
RELATIVE = 512


@dataclass(frozen=True)
class Model:
    """Weights and tokenizer from one folder; `positions` is the longest sequence in tokens."""

    net: Any
    tokenizer: Any
    seq2seq: bool
    eos: frozenset[int]
    positions: int


def load(path: Path) -> Model:
    """The model in `path`, on the GPU if there is one. Never runs code from the folder."""
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForSeq2SeqLM,
        AutoTokenizer,
    )

    config = AutoConfig.from_pretrained(path)
    kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = kind.from_pretrained(path).to(device).eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    given = net.generation_config.eos_token_id
    ends = given if isinstance(given, list) else [given]
    eos = frozenset(e for e in [*ends, tokenizer.eos_token_id] if e is not None)
    named = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions"))
    positions = next((int(value) for value in named if value), RELATIVE)
    return Model(net, tokenizer, bool(config.is_encoder_decoder), eos, positions)


@dataclass
class Row:
    """One sequence of the batch."""

    request: Generation
    prompt: Sequence[int]
    detokenizer: Detokenizer
    generator: torch.Generator
    generated: list[int] = field(default_factory=list)


def new_row(model: Model, request: Generation) -> Row:
    def decode(ids: Sequence[int]) -> str:
        return str(model.tokenizer.decode(ids, skip_special_tokens=True))

    generator = torch.Generator()
    # torch takes seeds up to 2^64 - 1, as TGI does.
    generator.manual_seed(request.sampling.seed or 0)
    return Row(request, request.prompt_ids or (), Detokenizer(decode), generator)


class Batch:
    """`step` gives the next token of every row in `rows`; `keep` drops the others' memory."""

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
        return [self._next(row, scores) for row, scores in zip(self.rows, logits, strict=True)]

    def keep(self, indices: list[int]) -> None:
        if len(indices) == len(self.rows):
            return
        self.rows = [self.rows[i] for i in indices]
        if not indices:
            return
        chosen = torch.tensor(indices, device=self._mask.device)
        self._mask = self._mask[chosen]
        self._cache.batch_select_indices(chosen)
        if self._encoded is not None:
            self._encoded.last_hidden_state = self._encoded.last_hidden_state[chosen]

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
        out = self._model.net(
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
        out = net(
            encoder_outputs=self._encoded,
            attention_mask=self._mask,
            decoder_input_ids=inputs,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._cache = out.past_key_values
        return _last_logits(out)

    def _next(self, row: Row, scores: Tensor) -> Token:
        request = row.request
        chosen, logprobs = choose(
            scores,
            request.sampling,
            prompt=row.prompt,
            generated=row.generated,
            generator=row.generator,
        )
        row.generated.append(chosen)
        ends: Ends | None = "eos_token" if chosen in self._model.eos else None
        special = ends is not None or chosen in self._model.tokenizer.all_special_ids
        text = self._text(chosen) if special else row.detokenizer.add(chosen)
        best = logprobs.topk(request.top_n_tokens)
        top = tuple(
            Token(i, self._text(i), value)
            for i, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        )
        return Token(chosen, text, float(logprobs[chosen]), special=special, ends=ends, top=top)

    def _text(self, token_id: int) -> str:
        return str(self._model.tokenizer.decode([token_id]))


def _last_logits(out: Any) -> Tensor:
    logits: Tensor = out.logits
    return logits[:, -1].cpu()


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
