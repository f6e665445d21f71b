"""Continuous batching of a decoder-only model: sequences join and leave between two tokens.

The running sequences have the first slots of the cache. A finished sequence stays in a slot behind
them until that slot is needed, so that a prompt with the same beginning need not be read again:
samples of one prompt, few-shot examples in front of every question.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from services.teacher.engines.base import Token
from services.teacher.engines.transformers.kv_cache import NextColumn, NextColumns, SlotCache
from services.teacher.engines.transformers.sequence import (
    BASE_ADAPTER,
    SequenceState,
    append_next_tokens,
    bind_adapters,
)
from services.teacher.engines.transformers.weights import LoadedModel
from services.teacher.metrics.batches import BatchMetrics

# Copying a shorter beginning is not worth looking for.
MIN_SHARED_PREFIX = 16
MAX_JOINT_POSITIONS = 256
"""Of prompts that are read in one call, with their padding. On a CPU a call takes as long as 20 to
30 of them; so many keep running sequences waiting for half a second."""
# Two ways of calling one model differ by rounding, in bfloat16 by a tenth of the logits' spread;
# another position or mask differs by about all of it.
LOGITS_TOLERANCE = 0.3


@dataclass
class CachedSequence:
    """The content of a cache slot: the tokens of its columns, and the adapter that read them."""

    tokens: list[int] = field(default_factory=list)
    adapter: str = BASE_ADAPTER


@dataclass
class PromptPart:
    """A prompt that is read into `slot`, from column `start` on."""

    slot: int
    sequence: SequenceState
    prompt: list[int]
    start: int = 0

    @property
    def unread(self) -> list[int]:
        return self.prompt[self.start :]


class ContinuousBatch:
    """`add` reads prompts, `step` returns the next token of every sequence, `remove` ends some."""

    has_capacity = True
    """Sequences may join at any time; the worker limits how many."""

    def __init__(
        self, model: LoadedModel, *, slots: int, max_total_tokens: int, batch_metrics: BatchMetrics
    ) -> None:
        self._model, self._batch_metrics = model, batch_metrics
        self.max_total_tokens = max_total_tokens
        self._cache = SlotCache(model.net.config.num_hidden_layers, slots, max_total_tokens)
        self._cached = [CachedSequence() for _ in range(slots)]
        self.sequences: list[SequenceState] = []
        self.prefilled_tokens = 0

    @torch.inference_mode()
    def add(self, sequences: Sequence[SequenceState]) -> None:
        """Prefill all of each prompt but its last token, which the next step reads. Short prompts
        are read in one call, and what several begin with once."""
        pending = [
            PromptPart(slot, sequence, list(sequence.prompt[:-1]))
            for slot, sequence in enumerate(sequences, start=len(self.sequences))
        ]
        while pending:
            started = time.perf_counter()
            joint, later = list[PromptPart](), list[PromptPart]()
            for part in pending:
                (joint if self._place(part, joint) else later).append(part)
            if unread := [part for part in joint if part.unread]:
                self._prefill(unread)
            for part in joint:
                self._cached[part.slot].tokens = part.prompt
                self.prefilled_tokens += len(part.unread) + 1
            self._batch_metrics.record_inference(
                "prefill", forward=time.perf_counter() - started, decode=0.0
            )
            pending = later
        self.sequences += sequences

    def _place(self, part: PromptPart, joint: Sequence[PromptPart]) -> bool:
        """Bring what is cached of a prompt into its slot; False where it is better read behind the
        `joint` ones, of which it can copy more then, or which would be padded for it."""
        adapter = part.sequence.adapter
        source, shared = self._find_longest_prefix(part.prompt, adapter)
        if any(
            _common_prefix_length(other.prompt, part.prompt) >= max(shared + 1, MIN_SHARED_PREFIX)
            for other in joint
            if other.sequence.adapter == adapter
        ):
            return False
        longest = max(len(part.prompt) - shared, *(len(other.unread) for other in joint), 0)
        if joint and longest * (len(joint) + 1) > MAX_JOINT_POSITIONS:
            return False
        # The slot's old content is overwritten; what it shares of the prefix is in place.
        own = self._count_shared(part.slot, part.prompt, adapter)
        if own < shared:
            self._cache.copy(source, part.slot, own, shared)
        self._cached[part.slot] = CachedSequence(part.prompt[:shared], adapter)
        part.start = shared
        return True

    def _find_longest_prefix(self, prompt: Sequence[int], adapter: str) -> tuple[int, int]:
        """The slot that shares the longest prefix with `prompt`, and that prefix's length."""
        lengths = [self._count_shared(slot, prompt, adapter) for slot in range(len(self._cached))]
        best = max(lengths)
        return (lengths.index(best), best) if best >= MIN_SHARED_PREFIX else (0, 0)

    def _count_shared(self, slot: int, prompt: Sequence[int], adapter: str) -> int:
        """Columns of `slot` that a prompt which `adapter` reads begins with."""
        cached = self._cached[slot]
        return _common_prefix_length(cached.tokens, prompt) if cached.adapter == adapter else 0

    def _prefill(self, parts: Sequence[PromptPart]) -> None:
        """Read what is unread of prompts, in one call, padded to the longest."""
        counts, starts = [len(part.unread) for part in parts], [part.start for part in parts]
        view = NextColumns([part.slot for part in parts], starts, counts)
        self._cache.set_view(view)
        width = max(counts)
        rows = [[*part.unread, *[0] * (width - len(part.unread))] for part in parts]
        # Padding stands where the last token does: further places a model may not have.
        places = torch.minimum(torch.arange(width), torch.tensor(counts)[:, None] - 1)
        positions = (torch.tensor(starts)[:, None] + places).to(self._device)
        attention_mask = torch.arange(view.width, device=self._device) <= positions[:, :, None]
        bind_adapters(self._model, [part.sequence for part in parts])(
            input_ids=torch.tensor(rows, device=self._device),
            attention_mask=attention_mask[:, None],
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )

    @torch.inference_mode()
    def step(self) -> list[Token]:
        """One token for every sequence, in the order of `sequences`."""
        started = time.perf_counter()
        logits = self._forward()
        forwarded = time.perf_counter()
        tokens = append_next_tokens(self._model, self.sequences, logits)
        done = time.perf_counter()
        self._batch_metrics.record_inference(
            "decode", forward=forwarded - started, decode=done - forwarded
        )
        return tokens

    def _forward(self) -> Tensor:
        """Logits [N, V], on the model's device."""
        lengths = []
        for sequence, cached in zip(self.sequences, self._cached, strict=False):
            lengths.append(len(cached.tokens))
            cached.tokens.append(
                sequence.generated[-1] if sequence.generated else sequence.prompt[-1]
            )
        self._cache.set_view(NextColumn(lengths))
        positions = torch.tensor(lengths, device=self._device)[:, None]
        attention_mask = torch.arange(max(lengths) + 1, device=self._device) <= positions
        active = self._cached[: len(self.sequences)]
        out = bind_adapters(self._model, self.sequences)(
            input_ids=torch.tensor([[cached.tokens[-1]] for cached in active], device=self._device),
            attention_mask=attention_mask[:, None, None],
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        logits: Tensor = out.logits[:, -1]
        return logits

    @torch.inference_mode()
    def remove(self, removed: Sequence[int]) -> list[int]:
        """Take the sequences at the indices `removed` out; the last one moves into each free slot.

        Returns the indices that the remaining sequences had, in their new order.
        """
        order = list(range(len(self.sequences)))
        started = time.perf_counter()
        for slot in sorted(removed, reverse=True):
            last = len(self.sequences) - 1
            if slot != last:
                self._swap(slot, last)
                self.sequences[slot], order[slot] = self.sequences[last], order[last]
            self.sequences.pop()
            order.pop()
        if removed:
            self._batch_metrics.record_reshape("filter", "decode", time.perf_counter() - started)
        return order

    def _swap(self, slot: int, other: int) -> None:
        """Exchange two slots. What both begin with is the same in both, and stays."""
        one, two = self._cached[slot], self._cached[other]
        shared = self._count_shared(slot, two.tokens, two.adapter)
        self._cache.swap(slot, other, shared, max(len(one.tokens), len(two.tokens)))
        self._cached[slot], self._cached[other] = two, one

    def reset(self) -> None:
        """Drop all sequences, after a call of the model that failed midway."""
        self.sequences.clear()
        self._cached = [CachedSequence() for _ in self._cached]

    @property
    def _device(self) -> torch.device:
        device: torch.device = self._model.net.device
        return device


def _common_prefix_length(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning."""
    shorter = min(len(one), len(other))
    if one[:shorter] == other[:shorter]:
        return shorter
    return next(i for i in range(shorter) if one[i] != other[i])


def supports_continuous_batching(
    model: LoadedModel, probe: SequenceState, batch: ContinuousBatch
) -> bool:
    """Whether `model` returns its reference logits through `batch`.

    Models do not whose layers attend to a shorter window than the cache, or that keep their
    positions or their past in another way.
    """
    config = model.net.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if kinds - {"full_attention", "sliding_attention"}:
        return False
    if window is not None and kinds != {"full_attention"} and window < batch.max_total_tokens:
        return False
    return _matches_reference_logits(model, probe, batch)


@torch.inference_mode()
def _matches_reference_logits(
    model: LoadedModel, probe: SequenceState, batch: ContinuousBatch
) -> bool:
    try:
        batch.add([probe])
        ours = batch._forward()[0].float()
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
        return False
    finally:
        batch.reset()
    ids = torch.tensor([list(probe.prompt)], device=model.net.device)
    reference = bind_adapters(model, [probe])(input_ids=ids).logits[0, -1].float()
    return bool((ours - reference).abs().max() <= LOGITS_TOLERANCE * reference.std())
