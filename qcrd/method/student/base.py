"""One interface to the student, whether it is a seq2seq or a decoder-only model.

Losses are asked for by prompt and target; a prompt is read once for all of its targets in a call.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, replace
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qcrd.method.batching import group_by_length
from qcrd.method.compute import count_flops, has_bf16
from qcrd.method.distributed.ranks import Ranks, SingleRank
from qcrd.method.losses import token_cross_entropy
from qcrd.method.student import generation
from qcrd.method.student.generation import OutputForm
from qcrd.method.student.packing import TargetParts
from qcrd.method.student.targets import GeneratedText, Target
from qcrd.method.student.texts import StudentTexts

Weights = Mapping[str, Tensor]
TokenLoss = Callable[[Tensor, Tensor], Tensor]
"""(logits [P, V], labels [P]) -> loss of each token [P]."""


MAX_BATCH_TARGET_TOKENS = 8192
"""Padded target positions per forward pass; bounds its memory, not its result."""


SAMPLING_ROWS = {"cuda": 256}
"""Outputs that are drawn at once, by kind of device, elsewhere 64: on a GPU what a token costs is
the launch of every kernel."""


class Student(StudentTexts):
    """A causal or seq2seq model with its tokenizer. `flops` counts the work done so far, `tokens`
    what was read and predicted for it, without padding; `bf16` says whether matrix products are
    done in that precision (weights and losses are fp32).

    `length_groups`: a call of the model is parted where lengths differ much, which saves padding on
    a CPU and launches on a GPU where it is not. `one_call`: losses are always one call of the
    model, whatever there is, as ranks that shard it must do; `ranks` share what is sampled.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_question_tokens: int,
        max_target_tokens: int,
        max_answer_tokens: int = 0,
        max_output_tokens: int | None = None,
        max_batch_target_tokens: int = MAX_BATCH_TARGET_TOKENS,
    ) -> None:
        super().__init__(
            tokenizer,
            max_question_tokens=max_question_tokens,
            max_target_tokens=max_target_tokens,
            max_answer_tokens=max_answer_tokens,
            max_output_tokens=max_output_tokens,
        )
        # Any: transformers builds most of a model's interface at run time.
        self.model: Any = model
        self.max_batch_target_tokens = max_batch_target_tokens
        self.flops = 0.0
        self.tokens = 0.0
        self.bf16 = False
        self.length_groups = self.device.type == "cpu"
        self.one_call = False
        self.ranks: Ranks = SingleRank()
        self.token_loss: TokenLoss = token_cross_entropy
        generation.reset_generation_config(model, tokenizer.eos_token_id)
        self._encoder_parameter_count, self._decoder_parameter_count = self._count_parameters()

    @property
    def device(self) -> torch.device:
        device: torch.device = self.model.device
        return device

    @abstractmethod
    def _count_parameters(self) -> tuple[int, int]:
        """Parameters that a question's token passes through, and those that a target's does."""

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

    def autocast(self) -> torch.autocast:
        """Matrix products in bf16 where this student trains, or scores, in it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

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

    @contextmanager
    def _evaluating(self, *, bf16: bool) -> Iterator[None]:
        """Without gradients and without dropout, matrix products in the precision asked for."""
        was_training, was_bf16 = self.model.training, self.bf16
        self.model.eval()
        self.bf16 = bf16
        try:
            with torch.no_grad():
                yield
        finally:
            self.bf16 = was_bf16
            self.model.train(was_training)

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """What is done meanwhile is in neither `flops` nor `tokens`."""
        flops, tokens = self.flops, self.tokens
        try:
            yield
        finally:
            self.flops, self.tokens = flops, tokens

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

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int, **how: Any) -> list[str]:
        """The texts of `sample`."""
        outputs = self.sample(prompts, max_new_tokens=max_new_tokens, **how)
        return [output.text for output in outputs]

    def sample(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        batch_size: int | None = None,
        options: Sequence[str] = (),
        beginnings: Sequence[Target] = (),
        answers: Literal["untold", "all", "marked"] = "untold",
        check: Callable[[], None] = lambda: None,
    ) -> list[GeneratedText]:
        """One output per prompt; greedy at temperature 0, else drawn from the smallest set of
        tokens with `top_p` of the probability, by default all of them. Where `options` are given,
        each is a rationale, the mark, and one of them; `beginnings` [N] are what outputs begin
        with. `answers`: what of an output is its answer, whose log-probability is then told.

        Batches go by length, and each rank draws every `ranks.size`-th; the result is in the order
        of the prompts and a function of the seed, whatever their number. `check` runs before each
        of them.
        """
        batch_size = batch_size or SAMPLING_ROWS.get(self.device.type, 64)
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
        groups = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        settings = generation.make_settings(
            min(max_new_tokens, self.max_output_tokens), temperature, top_p
        )
        flops, tokens = self.flops, self.tokens
        form = OutputForm(
            answers=self.make_answer_form(options) if options else None,
            mark=self._tokenize_mark() if answers == "marked" else (),
            tells_answers=answers != "untold",
        )

        def draw_own() -> list[Any]:
            outputs: list[Any] = []
            with self._evaluating(bf16=self.bf16), torch.random.fork_rng():
                for number in self.ranks.select_own(range(len(groups))):
                    check()
                    torch.manual_seed(seed + number)
                    asked = [prompts[i] for i in groups[number]]
                    begun = [beginnings[i] for i in groups[number]] if beginnings else []
                    own_form = replace(form, beginnings=[self.tokenize_parts(b)[0] for b in begun])
                    outputs += map(astuple, self._generate_batch(asked, settings, own_form))
            return [outputs, self.flops - flops, self.tokens - tokens]

        parts = self.ranks.gather(draw_own)
        self.flops = flops + sum(own_flops for _, own_flops, _ in parts)
        self.tokens = tokens + sum(own_tokens for _, _, own_tokens in parts)
        outputs: dict[int, GeneratedText] = {}
        for rank, (own, _, _) in enumerate(parts):
            places = [i for group in groups[rank :: len(parts)] for i in group]
            outputs |= zip(places, (GeneratedText(*output) for output in own), strict=True)
        return [outputs[i] for i in range(len(prompts))]

    def _generate_batch(
        self, prompts: list[str], settings: Mapping[str, Any], form: OutputForm
    ) -> list[GeneratedText]:
        ids, mask = self._pad_prompts(self.tokenize_prompts(prompts))
        start = self._completion_start(ids)
        rows = generation.generate(self.model, ids, mask, settings, start=start, form=form)
        self._count_work(self._encoder_parameter_count, int(mask.sum()))
        self._count_work(self._decoder_parameter_count, sum(len(row.tokens) for row in rows))
        texts = self.tokenizer.batch_decode([row.tokens for row in rows], skip_special_tokens=True)
        return [
            GeneratedText(
                text.strip(), row.is_cut, row.entropy, row.answer_logprob, len(row.tokens)
            )
            for text, row in zip(texts, rows, strict=True)
        ]

    def _completion_start(self, ids: Tensor) -> int:
        return 1

    def encoder_parameters(self) -> list[torch.nn.Parameter]:
        """The parameters that read questions."""
        return list(self.model.parameters())

    def _pad_prompts(self, prompts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Token ids and mask [N, S], padded on the tokenizer's side."""
        batch = self.tokenizer.pad({"input_ids": list(prompts)}, return_tensors="pt")
        return batch.input_ids.to(self.device), batch.attention_mask.to(self.device)

    def _count_work(self, parameters: int, tokens: int) -> None:
        self.flops += count_flops(parameters, tokens)
        self.tokens += tokens
