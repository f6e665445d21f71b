"""Continuous batching of a decoder-only model: sequences join and leave between two tokens.

The running rows are the first ones of the cache. A row that has ended stays in the cache behind
them until its place is needed, so that a prompt with the same beginning need not be read again:
samples of one prompt, few-shot examples in front of every question.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from services.teacher.engines.base import Token
from services.teacher.engines.transformers.kv_cache import SlotCache, View
from services.teacher.engines.transformers.sequence import BASE, Row, network, next_token
from services.teacher.engines.transformers.weights import Model
from services.teacher.metrics.batches import Batches

# Copying a shorter beginning is not worth looking for.
SHORTEST_SHARED = 16
# Two ways of calling one model differ by rounding, in bfloat16 by a tenth of the logits' spread;
# another position or mask differs by about all of it.
TOLERANCE = 0.3


@dataclass
class Held:
    """What a row of the cache holds: the tokens of its columns, under which adapter."""

    tokens: list[int] = field(default_factory=list)
    adapter: str = BASE


class Continuous:
    """`add` reads a prompt, `step` gives the next token of every row, `leave` ends rows."""

    open = True
    """Anyone may join at any time; how many is the worker's business."""

    def __init__(self, model: Model, *, slots: int, columns: int, batches: Batches) -> None:
        self._model, self._batches = model, batches
        self.columns = columns
        self._cache = SlotCache(model.net.config.num_hidden_layers, slots, columns)
        self._held = [Held() for _ in range(slots)]
        self.rows: list[Row] = []
        self.prefilled_tokens = 0

    @torch.inference_mode()
    def add(self, row: Row) -> None:
        """Read all of the prompt but its last token, which the next step reads."""
        place = len(self.rows)
        wanted = list(row.prompt[:-1])
        source, shared = self._longest(wanted, row.adapter)
        # What the place held is lost to later prompts; the copy may come from itself.
        if shared and source != place:
            self._cache.copy(source, place, shared)
        held = self._held[place] = Held(wanted[:shared], row.adapter)
        started = time.perf_counter()
        if shared < len(wanted):
            self._read(place, row, wanted[shared:], shared)
        held.tokens = wanted
        self.prefilled_tokens += len(wanted) - shared + 1
        self.rows.append(row)
        self._batches.inferred("prefill", forward=time.perf_counter() - started, decode=0.0)

    def _longest(self, wanted: Sequence[int], adapter: str) -> tuple[int, int]:
        """The row that shares the longest beginning with `wanted`, and how long that is."""
        best = (0, 0)
        for place, held in enumerate(self._held):
            if held.adapter == adapter:
                shared = _shared(held.tokens, wanted)
                best = max(best, (place, shared), key=lambda found: found[1])
        return best if best[1] >= SHORTEST_SHARED else (0, 0)

    def _read(self, place: int, row: Row, tokens: Sequence[int], start: int) -> None:
        count = len(tokens)
        self._cache.at(View([start], row=place, count=count))
        positions = torch.arange(start, start + count, device=self._device)
        seen = torch.arange(start + count, device=self._device) <= positions[:, None]
        network(self._model, [row])(
            input_ids=torch.tensor([tokens], device=self._device),
            attention_mask=seen[None, None],
            position_ids=positions[None],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )

    @torch.inference_mode()
    def step(self) -> list[Token]:
        """One token for every row, in the order of `rows`."""
        started = time.perf_counter()
        logits = self._forward()
        forwarded = time.perf_counter()
        tokens = [
            next_token(self._model, row, scores)
            for row, scores in zip(self.rows, logits, strict=True)
        ]
        done = time.perf_counter()
        self._batches.inferred("decode", forward=forwarded - started, decode=done - forwarded)
        return tokens

    def _forward(self) -> Tensor:
        """Logits [rows, V] on the CPU, in float32."""
        lengths = []
        for row, held in zip(self.rows, self._held, strict=False):
            lengths.append(len(held.tokens))
            held.tokens.append(row.generated[-1] if row.generated else row.prompt[-1])
        self._cache.at(View(lengths))
        positions = torch.tensor(lengths, device=self._device)[:, None]
        seen = torch.arange(max(lengths) + 1, device=self._device) <= positions
        held_now = self._held[: len(self.rows)]
        out = network(self._model, self.rows)(
            input_ids=torch.tensor([[h.tokens[-1]] for h in held_now], device=self._device),
            attention_mask=seen[:, None, None],
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        logits: Tensor = out.logits[:, -1]
        return logits.float().cpu()

    @torch.inference_mode()
    def leave(self, places: Sequence[int]) -> list[int]:
        """Take the rows at `places` out; the last row moves into each hole. The places that the
        remaining rows had, in their new order.
        """
        order = list(range(len(self.rows)))
        started = time.perf_counter()
        for place in sorted(places, reverse=True):
            last = len(self.rows) - 1
            if place != last:
                columns = max(len(self._held[place].tokens), len(self._held[last].tokens))
                self._cache.swap(place, last, columns)
                self._held[place], self._held[last] = self._held[last], self._held[place]
                self.rows[place], order[place] = self.rows[last], order[last]
            self.rows.pop()
            order.pop()
        if places:
            self._batches.reshaped("filter", "decode", time.perf_counter() - started)
        return order

    def reset(self) -> None:
        """Forget everything, after a call of the model that broke in the middle."""
        self.rows.clear()
        self._held = [Held() for _ in self._held]

    @property
    def _device(self) -> torch.device:
        device: torch.device = self._model.net.device
        return device


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning."""
    most = min(len(one), len(other))
    if one[:most] == other[:most]:
        return most
    return next(i for i in range(most) if one[i] != other[i])


def suits(model: Model, probe: Row, engine: Continuous) -> bool:
    """Whether `model` gives its own logits through `engine`: one whose layers look back less far
    than the cache does not, nor one that keeps its positions or its past in another way.
    """
    config = model.net.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    if kinds - {"full_attention", "sliding_attention"}:
        return False
    if window is not None and kinds != {"full_attention"} and window < engine.columns:
        return False
    return _agrees(model, probe, engine)


@torch.inference_mode()
def _agrees(model: Model, probe: Row, engine: Continuous) -> bool:
    try:
        engine.add(probe)
        ours = engine._forward()[0]
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
        return False
    finally:
        engine.reset()
    ids = torch.tensor([list(probe.prompt)], device=model.net.device)
    plain = network(model, [probe])(input_ids=ids).logits[0, -1].float().cpu()
    return bool((ours - plain).abs().max() <= TOLERANCE * plain.std())
