"""A seq2seq student: the encoder reads a question once, its targets share the encoder's output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from qcrd.method.student.base import EncodedPrompts, Student


class Seq2SeqStudent(Student):
    """T5, BART and encoder-decoders built around a BERT-like encoder."""

    def _count_parameters(self) -> tuple[int, int]:
        encoder: Any = self.model.get_encoder()
        embedding_parameters = self.model.get_input_embeddings().weight.numel()
        total = sum(p.numel() for p in self.model.parameters())
        encoder_parameters = sum(p.numel() for p in encoder.parameters()) - embedding_parameters
        head = self.model.get_output_embeddings().weight.numel()
        is_tied = self.model.get_input_embeddings().weight is self._decoder_embedding()
        embeddings = embedding_parameters if is_tied else embedding_parameters + head
        return encoder_parameters, total - encoder_parameters - embeddings + head

    def _decoder_embedding(self) -> Tensor:
        weight: Tensor = self.model.get_decoder().get_input_embeddings().weight
        return weight

    def encoder_parameters(self) -> list[torch.nn.Parameter]:
        return list(self.model.get_encoder().parameters())

    def _encode(self, ids: Tensor, mask: Tensor) -> EncodedPrompts:
        encoder: Any = self.model.get_encoder()
        encoded = encoder(input_ids=ids, attention_mask=mask)
        return EncodedPrompts((encoded.last_hidden_state,), mask)

    def _compute_logits(self, encoded: EncodedPrompts, targets: Tensor, mask: Tensor) -> Tensor:
        start = torch.full_like(targets[:, :1], self._decoder_start_token_id)
        output = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded.states[0]),
            attention_mask=encoded.mask,
            decoder_input_ids=torch.cat((start, targets[:, :-1]), 1),
            decoder_attention_mask=torch.cat((torch.ones_like(start), mask[:, :-1]), 1),
            use_cache=False,
        )
        logits: Tensor = output.logits
        return logits

    def _tokenize_target(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text_target=text).input_ids
        # BERT-like tokenizers open with the token the decoder starts from anyway.
        return ids[1:] if ids and ids[0] == self._decoder_start_token_id else ids

    @property
    def _decoder_start_token_id(self) -> int:
        start: int = self.model.generation_config.decoder_start_token_id
        return start
