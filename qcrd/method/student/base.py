"""One interface to the student, whether it is a seq2seq or a decoder-only model.

A question is read once (`encode`) and its rationales share that reading: for seq2seq it is the
encoder's output, for decoder-only models the prefix's key-value cache. Gradients flow through it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qcrd.method.batching import group_by_length
from qcrd.method.compute import count_flops
from qcrd.method.losses import IGNORE_INDEX, token_cross_entropy
from qcrd.method.student.control_tokens import ControlTokenSplitter

Weights = Mapping[str, Tensor]


MAX_BATCH_TARGET_TOKENS = 8192
"""Padded target positions per forward pass; bounds its memory, not its result."""


MAX_ADDED_TOKENS = 4
"""Control tokens that a tokenizer puts around a text, and a piece for its leading space."""


@dataclass(frozen=True)
class EncodedPrompts:
    """N encoded questions.

    `states` are per-layer tensors with the batch first (one encoder output, or keys and values),
    `mask` [N, S] marks real positions, `last_token` [N] is the prompt's last token where the
    decoder must start from it.
    """

    states: tuple[Tensor, ...]
    mask: Tensor
    last_token: Tensor | None = None

    def gather(self, prompt_index: Tensor) -> EncodedPrompts:
        """The encodings of questions `prompt_index` [M], one row per target."""
        last_token = None if self.last_token is None else self.last_token[prompt_index]
        return EncodedPrompts(
            tuple(state[prompt_index] for state in self.states), self.mask[prompt_index], last_token
        )

    def detach(self) -> EncodedPrompts:
        return replace(self, states=tuple(state.detach() for state in self.states))


class Student(ABC):
    """A causal or seq2seq model with its tokenizer. `flops` counts the work done so far; `bf16`
    says whether matrix products are done in that precision (weights and losses are fp32)."""

    suffix = ""
    """Text that ends every prompt, so that the output can follow in the same sequence."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_question_tokens: int,
        max_target_tokens: int,
        max_batch_target_tokens: int = MAX_BATCH_TARGET_TOKENS,
    ) -> None:
        # Any: transformers builds most of a model's interface at run time.
        self.model: Any = model
        self.tokenizer = tokenizer
        self.max_question_tokens = max_question_tokens
        self.max_target_tokens = max_target_tokens
        self._control_tokens = ControlTokenSplitter(tokenizer.all_special_tokens)
        self.max_batch_target_tokens = max_batch_target_tokens
        self.flops = 0.0
        self.bf16 = False
        self._encoder_parameter_count, self._decoder_parameter_count = self._count_parameters()

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @abstractmethod
    def _count_parameters(self) -> tuple[int, int]:
        """Parameters that a question's token passes through, and those that a target's does."""

    @abstractmethod
    def _encode(self, ids: Tensor, mask: Tensor) -> EncodedPrompts: ...

    @abstractmethod
    def _compute_logits(self, encoded: EncodedPrompts, targets: Tensor, mask: Tensor) -> Tensor:
        """[M, T, V]: position t predicts `targets[:, t]` from the tokens before it."""

    @abstractmethod
    def _tokenize_target(self, text: str) -> list[int]: ...

    def tokenize_target(self, text: str) -> list[int]:
        """The tokens of an output and its end; a control token in `text` is text."""
        return self._tokenize_target(self._control_tokens.split(text))

    def encode(self, prompts: Sequence[str]) -> EncodedPrompts:
        ids, mask = self._tokenize_prompts(prompts)
        frozen = not any(p.requires_grad for p in self.encoder_parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen), self._autocast():
            self._add_flops(self._encoder_parameter_count, ids)
            return self._encode(ids, mask)

    def cross_entropy(
        self, encoded: EncodedPrompts, prompt_index: Sequence[int], targets: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Summed cross entropy and token count of each target, both [M].

        `prompt_index[m]` is the row of `encoded` that target m belongs to.
        """
        rows = [self.tokenize_target(target)[: self.max_target_tokens] for target in targets]
        groups = group_by_length(
            [len(row) for row in rows], max_tokens=self.max_batch_target_tokens
        )
        with self._autocast():  # around all groups, so that weights are cast once
            parts = [
                self._group_cross_entropy(
                    encoded, [prompt_index[i] for i in group], [rows[i] for i in group]
                )
                for group in groups
            ]
        inverse_order = (
            torch.tensor([i for group in groups for i in group]).argsort().to(self.device)
        )
        total, count = (torch.cat(column)[inverse_order] for column in zip(*parts, strict=True))
        return total, count

    def _group_cross_entropy(
        self, encoded: EncodedPrompts, prompt_index: Sequence[int], rows: Sequence[list[int]]
    ) -> tuple[Tensor, Tensor]:
        width = max(map(len, rows))
        ids = torch.full((len(rows), width), IGNORE_INDEX, device=self.device)
        for padded_row, row in zip(ids, rows, strict=True):
            padded_row[: len(row)] = torch.tensor(row, device=self.device)
        self._add_flops(self._decoder_parameter_count, ids)
        gathered = encoded.gather(torch.tensor(prompt_index, device=self.device))
        with self._autocast(), self._restrict_lm_head(ids != IGNORE_INDEX):
            logits = self._compute_logits(gathered, ids.clamp(min=0), (ids != IGNORE_INDEX).long())
        return token_cross_entropy(logits, ids)

    def _autocast(self) -> torch.autocast:
        """Matrix products in bf16 where this student trains, or scores, in it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    @contextmanager
    def _restrict_lm_head(self, positions: Tensor) -> Iterator[None]:
        """The output head sees only the real positions of [M, T]; its logits are then [P, V].

        It is the largest matrix of a small student, and a batch is padded to its longest target.
        """
        head = self.model.get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _, args: (args[0][positions], *args[1:]))
        try:
            yield
        finally:
            hook.remove()

    @torch.no_grad()
    def mean_cross_entropy(
        self, encoded: EncodedPrompts, prompt_index: Sequence[int], targets: Sequence[str]
    ) -> Tensor:
        """Mean token cross entropy of each target [M], without gradients and without dropout."""
        was_training, was_bf16 = self.model.training, self.bf16
        self.model.eval()
        # Scores only rank candidates: bf16 is exact enough where it is faster.
        self.bf16 = was_bf16 or has_bf16(self.device)
        total, count = self.cross_entropy(encoded.detach(), prompt_index, targets)
        self.bf16 = was_bf16
        self.model.train(was_training)
        return total / count

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        batch_size: int = 64,
        check: Callable[[], None] = lambda: None,
    ) -> list[str]:
        """One output per prompt; greedy at temperature 0, else sampled from the whole distribution.

        Batches go by length; the result is in the order of the prompts and a function of the seed.
        `check` runs before each of them.
        """
        was_training = self.model.training
        self.model.eval()
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
        texts = [""] * len(prompts)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for start in range(0, len(order), batch_size):
                check()
                group = order[start : start + batch_size]
                outputs = self._generate_batch(
                    [prompts[i] for i in group], max_new_tokens, temperature
                )
                for i, output in zip(group, outputs, strict=True):
                    texts[i] = output
        self.model.train(was_training)
        return texts

    def _generate_batch(
        self, prompts: list[str], max_new_tokens: int, temperature: float
    ) -> list[str]:
        ids, mask = self._tokenize_prompts(prompts)
        # top_k and top_p off: a library default of 50 would cut the distribution the paper samples.
        sampling_kwargs: dict[str, Any] = (
            {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
            if temperature > 0
            else {"do_sample": False}
        )
        generate: Any = self.model.generate
        generated = generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=min(max_new_tokens, self.max_target_tokens),
            **sampling_kwargs,
        )
        completion_ids = generated[:, self._completion_start(ids) :]
        self._add_flops(self._encoder_parameter_count, ids)
        self._add_flops(self._decoder_parameter_count, completion_ids)
        texts: list[str] = self.tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _completion_start(self, ids: Tensor) -> int:
        return 1

    def encoder_parameters(self) -> list[torch.nn.Parameter]:
        """The parameters that read questions."""
        return list(self.model.parameters())

    def _tokenize_prompts(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        batch = self.tokenizer(
            [self._control_tokens.split(prompt) for prompt in prompts],
            padding=True,
            truncation=True,
            max_length=self.max_question_tokens,
            return_tensors="pt",
        )
        return batch.input_ids.to(self.device), batch.attention_mask.to(self.device)

    def is_cut(self, prompt: str) -> bool:
        """Whether the prompt is longer than `max_question_tokens`, so that a part of it is not
        read."""
        text = self._control_tokens.split(prompt + self.suffix)
        # No token is shorter than a byte, and few are added around them.
        if len(text.encode()) + MAX_ADDED_TOKENS <= self.max_question_tokens:
            return False
        return len(self.tokenizer(text).input_ids) > self.max_question_tokens

    def _add_flops(self, parameters: int, ids: Tensor) -> None:
        self.flops += count_flops(parameters, ids.numel())


def has_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bf16 matrices natively, and so faster than fp32 ones."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16"))
