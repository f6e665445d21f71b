"""A seq2seq student: the encoder reads a question once, its targets share the encoder's output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from qcrd.method.student.base import Reading, Student


class Seq2SeqStudent(Student):
    """T5, BART and encoder-decoders built around a BERT-like encoder."""

    def _parameters(self) -> tuple[int, int]:
        encoder: Any = self.model.get_encoder()
        embedded = self.model.get_input_embeddings().weight.numel()
        total = sum(p.numel() for p in self.model.parameters())
        reader = sum(p.numel() for p in encoder.parameters()) - embedded
        head = self.model.get_output_embeddings().weight.numel()
        shared = self.model.get_input_embeddings().weight is self._decoder_embedding()
        embeddings = embedded if shared else embedded + head
        return reader, total - reader - embeddings + head

    def _decoder_embedding(self) -> Tensor:
        weight: Tensor = self.model.get_decoder().get_input_embeddings().weight
        return weight

    def readers(self) -> list[torch.nn.Parameter]:
        return list(self.model.get_encoder().parameters())

    def _read(self, ids: Tensor, mask: Tensor) -> Reading:
        encoder: Any = self.model.get_encoder()
        encoded = encoder(input_ids=ids, attention_mask=mask)
        return Reading((encoded.last_hidden_state,), mask)

    def _logits(self, reading: Reading, targets: Tensor, mask: Tensor) -> Tensor:
        start = torch.full_like(targets[:, :1], self._start)
        output = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=reading.states[0]),
            attention_mask=reading.mask,
            decoder_input_ids=torch.cat((start, targets[:, :-1]), 1),
            decoder_attention_mask=torch.cat((torch.ones_like(start), mask[:, :-1]), 1),
            use_cache=False,
        )
        logits: Tensor = output.logits
        return logits

    def _target_ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text_target=text).input_ids
        # BERT-like tokenizers open with the token the decoder starts from anyway.
        return ids[1:] if ids and ids[0] == self._start else ids

    @property
    def _start(self) -> int:
        start: int = self.model.generation_config.decoder_start_token_id
        return start
