"""A decoder-only student: a question and its targets are packed into one sequence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qcrd.method.batching import restore_order
from qcrd.method.student import generation, packing
from qcrd.method.student.base import Student
from qcrd.method.student.chat_form import ChatForm
from qcrd.method.student.packing import PackedRows, Row, TargetParts
from qcrd.records.students.prompt_format import JOINED_ANSWER_PREFIX


class CausalStudent(Student):
    """SmolLM2, Qwen, Llama and their like: prompt and output in one sequence.

    `packed`: a prompt shares its sequence with all of its targets, under a mask. Models that carry
    a state along the sequence, or count places in ways of their own, get one sequence per target.
    `block_attention`: losses are computed by FlexAttention, on a GPU where the model's can be.
    """

    suffix = "\nAnswer:"
    output_continues_prompt = True

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        packed: bool = True,
        chat: ChatForm | None = None,
        **limits: int,
    ) -> None:
        tokenizer.padding_side = "left"
        tokenizer.truncation_side = "left"
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        super().__init__(model, tokenizer, **limits)
        self.chat = chat
        self._end_token_id = tokenizer.eos_token_id
        if chat is not None:
            self._end_token_id = tokenizer.convert_tokens_to_ids(chat.end)
            generation.reset_generation_config(model, self._end_token_id)
        self.max_row_tokens = packing.MAX_ROW_TOKENS
        self._windows = packing.attention_windows(model.config) if packed else None
        self.block_attention = packed and self.device.type == "cuda" and _has_blocks(model)

    def _count_parameters(self) -> tuple[int, int]:
        total = sum(p.numel() for p in self.model.parameters())
        embedding = self.model.get_input_embeddings().weight
        tied = embedding is self.model.get_output_embeddings().weight
        per_token = total if tied else total - embedding.numel()
        return per_token, per_token

    def _cross_entropy(
        self,
        prompts: Sequence[list[int]],
        prompt_index: Sequence[int],
        targets: Sequence[TargetParts],
    ) -> tuple[Tensor, Tensor]:
        rows = packing.plan_rows(
            [len(prompt) for prompt in prompts],
            prompt_index,
            [len(before) + len(answer) for before, answer in targets],
            max_tokens=0 if self._windows is None else self.max_row_tokens,
        )
        groups = self._group([row.n_tokens for row in rows])
        parts = [
            self._rows_cross_entropy([rows[i] for i in group], prompts, targets) for group in groups
        ]
        order = [target for group in groups for i in group for target in rows[i].targets]
        return restore_order(parts, order)

    def _rows_cross_entropy(
        self, rows: Sequence[Row], prompts: Sequence[list[int]], targets: Sequence[TargetParts]
    ) -> tuple[Tensor, Tensor]:
        pad_token_id = self.tokenizer.pad_token_id
        packed = packing.pack_rows(rows, prompts, targets, pad_token_id=pad_token_id)
        self._count_work(self._decoder_parameter_count, packed.n_tokens)
        packed = packed.to(self.device)
        with self.autocast(), self._select_places(packed.predictors), self._block_attention():
            output = self.model(
                input_ids=packed.ids, use_cache=False, **self._attention_arguments(packed)
            )
        token_ce = self.token_loss(output.logits, packed.targets.labels)
        return packed.targets.sum_by_part(token_ce), packed.targets.counts

    def _attention_arguments(self, packed: PackedRows) -> dict[str, Any]:
        if self._windows is None:
            return {"attention_mask": (packed.segments != packing.PADDING).long()}
        implementation = self.model.config._attn_implementation
        mask = packing.build_attention_mask(packed, self._windows, implementation, self.model.dtype)
        return {"attention_mask": mask, "position_ids": packed.positions}

    @contextmanager
    def _block_attention(self) -> Iterator[None]:
        """Attention that computes what the mask lets through and no more. Generation, which has
        another shape at each token, stays with what the model was loaded with."""
        config = self.model.config
        loaded = config._attn_implementation
        if self.block_attention:
            config._attn_implementation = "flex_attention"
        try:
            yield
        finally:
            config._attn_implementation = loaded

    def _tokenize_text(self, text: str, *, is_first: bool = True) -> list[int]:
        # Behind a chat's header a reply begins without a space.
        lead = "" if is_first and self.chat is not None else " "
        ids: list[int] = self.tokenizer(lead + text, add_special_tokens=False).input_ids
        return ids

    def _tokenize_mark(self) -> list[int]:
        text = f"\n{JOINED_ANSWER_PREFIX}"
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def _target_frame(self) -> tuple[list[int], list[int]]:
        return [], [self._end_token_id]

    def _completion_start(self, ids: Tensor) -> int:
        return ids.shape[1]


def _has_blocks(model: Any) -> bool:
    """Whether the model's attention can be FlexAttention."""
    return bool(getattr(model, "_supports_flex_attn", False))
