"""A seq2seq student: the encoder reads a question once, its targets share the encoder's output."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers.modeling_outputs import BaseModelOutput

from qcrd.method.batching import restore_order
from qcrd.method.losses import IGNORE_INDEX
from qcrd.method.student.base import Student
from qcrd.method.student.packing import TargetParts, join_targets, pad_targets
from qcrd.records.students.prompt_format import JOINED_ANSWER_PREFIX


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

    def _cross_entropy(
        self,
        prompts: Sequence[list[int]],
        prompt_index: Sequence[int],
        targets: Sequence[TargetParts],
    ) -> tuple[Tensor, Tensor]:
        states, mask = self._encode(prompts)
        groups = self._group([len(before) + len(answer) for before, answer in targets])
        parts = []
        for group in groups:
            index = torch.tensor([prompt_index[i] for i in group], device=self.device)
            parts.append(self._decode(states[index], mask[index], [targets[i] for i in group]))
        return restore_order(parts, [i for group in groups for i in group])

    def _encode(self, prompts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """The encoder's states [N, S, D] of the prompts, and their mask [N, S]."""
        groups = self._group([len(prompt) for prompt in prompts])
        parts = [self._encode_group([prompts[i] for i in group]) for group in groups]
        width = max(mask.shape[1] for _, mask in parts)
        padded = [
            (pad(states, (0, 0, 0, width - mask.shape[1])), pad(mask, (0, width - mask.shape[1])))
            for states, mask in parts
        ]
        return restore_order(padded, [i for group in groups for i in group])

    def _encode_group(self, prompts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        ids, mask = self._pad_prompts(prompts)
        is_frozen = not any(p.requires_grad for p in self.encoder_parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and not is_frozen), self.autocast():
            self._count_work(self._encoder_parameter_count, sum(map(len, prompts)))
            encoder: Any = self.model.get_encoder()
            return encoder(input_ids=ids, attention_mask=mask).last_hidden_state, mask

    def _decode(
        self, states: Tensor, mask: Tensor, targets: Sequence[TargetParts]
    ) -> tuple[Tensor, Tensor]:
        grid = pad_targets(targets)
        is_target = grid != IGNORE_INDEX
        self._count_work(self._decoder_parameter_count, int(is_target.sum()))
        start = torch.full_like(grid[:, :1], self._decoder_start_token_id)
        read = torch.cat((start, grid[:, :-1].clamp(min=0)), 1).to(self.device)
        is_read = torch.cat((torch.ones_like(start), is_target[:, :-1].long()), 1).to(self.device)
        tokens = join_targets(targets).to(self.device)
        # A target's cells are the places that predict it: its tokens are read shifted by one.
        with self.autocast(), self._select_places(tokens.cells):
            output = self.model(
                encoder_outputs=BaseModelOutput(last_hidden_state=states),
                attention_mask=mask,
                decoder_input_ids=read,
                decoder_attention_mask=is_read,
                use_cache=False,
            )
        token_ce = self.token_loss(output.logits, tokens.labels)
        return tokens.sum_by_part(token_ce), tokens.counts

    def _tokenize_text(self, text: str, *, is_first: bool = True) -> list[int]:
        ids: list[int] = self.tokenizer(text_target=text, add_special_tokens=False).input_ids
        return ids

    def _tokenize_mark(self) -> list[int]:
        return self._tokenize_text(JOINED_ANSWER_PREFIX)

    def _target_frame(self) -> tuple[list[int], list[int]]:
        return self._frame

    @cached_property
    def _frame(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts around a text of one token."""
        framed: list[int] = self.tokenizer(text_target="a").input_ids
        bare = self._tokenize_text("a")
        place = next(i for i in range(len(framed)) if framed[i : i + len(bare)] == bare)
        begin, end = framed[:place], framed[place + len(bare) :]
        # BERT-like tokenizers open with the token the decoder starts from anyway.
        return begin[begin[:1] == [self._decoder_start_token_id] :], end

    @property
    def _decoder_start_token_id(self) -> int:
        start: int = self.model.generation_config.decoder_start_token_id
        return start
