"""Packed rows: a prompt and its targets in one sequence, kept apart by an attention mask.

Each target sees the prompt and itself, at the positions that it would have behind the prompt alone,
so the logits are those of one sequence per pair while a prompt is read once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from qcrd.method.losses import IGNORE_INDEX

TargetParts = tuple[Sequence[int], Sequence[int]]
"""Tokens of a target before its answer, and from there to its end; one of them may be empty."""

MAX_ROW_TOKENS = 2048
"""Tokens of a row with several targets; a prompt with more of them gets several rows."""

PADDING, PROMPT = -1, 0
"""Segments of a row besides those of its targets, which count from 1."""


@dataclass(frozen=True)
class Row:
    """A prompt with some of its targets, as indices into the lists that they come from."""

    prompt: int
    targets: tuple[int, ...]
    n_tokens: int


@dataclass(frozen=True)
class TargetTokens:
    """The P tokens of M targets, one after the other: `labels` [P], their `cells` [P] in a grid
    [M, T], and `counts` [M, 2] of what stands before an answer and from there on. Made on the CPU,
    so that a GPU is asked for no place or count."""

    labels: Tensor
    cells: Tensor
    counts: Tensor
    width: int

    def to(self, device: torch.device) -> TargetTokens:
        return TargetTokens(
            self.labels.to(device), self.cells.to(device), self.counts.to(device), self.width
        )

    def sum_by_part(self, values: Tensor) -> Tensor:
        """[P] -> [M, 2], in an order that is always the same."""
        grid = values.new_zeros(len(self.counts) * self.width)
        grid = grid.index_copy(0, self.cells, values).view(-1, self.width)
        is_before = torch.arange(self.width, device=grid.device) < self.counts[:, :1]
        return torch.stack(((grid * is_before).sum(1), (grid * ~is_before).sum(1)), 1)


def join_targets(targets: Sequence[TargetParts]) -> TargetTokens:
    """The tokens of targets, none of them empty."""
    width = max(len(before) + len(answer) for before, answer in targets)
    whole = [[*before, *answer] for before, answer in targets]
    cells = [m * width + t for m, target in enumerate(whole) for t in range(len(target))]
    return TargetTokens(
        torch.tensor([token for target in whole for token in target]),
        torch.tensor(cells),
        torch.tensor([[len(before), len(answer)] for before, answer in targets]),
        width,
    )


@dataclass(frozen=True)
class PackedRows:
    """B rows of L places: token `ids`, `positions` and `segments`, all [B, L].

    `targets` are those of the rows, in their order; `predictors` [P] are the places in [B * L]
    whose logits predict their P tokens, `n_tokens` the places that are not padding.
    """

    ids: Tensor
    positions: Tensor
    segments: Tensor
    targets: TargetTokens
    predictors: Tensor
    n_tokens: int

    def to(self, device: torch.device) -> PackedRows:
        names = ("ids", "positions", "segments", "targets", "predictors")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})


def plan_rows(
    prompt_lengths: Sequence[int],
    prompt_index: Sequence[int],
    target_lengths: Sequence[int],
    *,
    max_tokens: int,
) -> list[Row]:
    """Rows that hold every target once, behind its prompt, at most `max_tokens` long where they
    have several targets. A target's last token is predicted and not read."""
    by_prompt: dict[int, list[int]] = {}
    for target, prompt in enumerate(prompt_index):
        by_prompt.setdefault(prompt, []).append(target)
    rows: list[Row] = []
    for prompt, targets in by_prompt.items():
        own: list[int] = []
        length = prompt_lengths[prompt]
        for target in targets:
            added = target_lengths[target] - 1
            if own and length + added > max_tokens:
                rows.append(Row(prompt, tuple(own), length))
                own, length = [], prompt_lengths[prompt]
            own.append(target)
            length += added
        rows.append(Row(prompt, tuple(own), length))
    return rows


def pack_rows(
    rows: Sequence[Row],
    prompts: Sequence[Sequence[int]],
    targets: Sequence[TargetParts],
    *,
    pad_token_id: int,
) -> PackedRows:
    """The tensors of `rows`; no prompt and no target is empty."""
    width = max(row.n_tokens for row in rows)
    shape = (len(rows), width)
    ids = torch.full(shape, pad_token_id)
    positions, segments = torch.zeros(shape, dtype=torch.long), torch.full(shape, PADDING)
    predictors: list[int] = []
    for number, row in enumerate(rows):
        prompt, start = prompts[row.prompt], number * width
        row_ids, row_positions, row_segments = list(prompt), list(range(len(prompt))), []
        row_segments += [PROMPT] * len(prompt)
        for segment, target in enumerate(row.targets, 1):
            read = [*targets[target][0], *targets[target][1]][:-1]
            # The prompt's last place predicts the first token of each of its targets.
            predictors.append(start + len(prompt) - 1)
            predictors += range(start + len(row_ids), start + len(row_ids) + len(read))
            row_ids += read
            row_positions += range(len(prompt), len(prompt) + len(read))
            row_segments += [segment] * len(read)
        ids[number, : row.n_tokens] = torch.tensor(row_ids)
        positions[number, : row.n_tokens] = torch.tensor(row_positions)
        segments[number, : row.n_tokens] = torch.tensor(row_segments)
    packed = [targets[target] for row in rows for target in row.targets]
    return PackedRows(
        ids,
        positions,
        segments,
        join_targets(packed),
        torch.tensor(predictors),
        sum(row.n_tokens for row in rows),
    )


def pad_targets(targets: Sequence[TargetParts]) -> Tensor:
    """[M, T]: the token ids of M targets, padded with `IGNORE_INDEX`."""
    width = max(len(before) + len(answer) for before, answer in targets)
    padded = torch.full((len(targets), width), IGNORE_INDEX)
    for row, (before, answer) in zip(padded, targets, strict=True):
        row[: len(before) + len(answer)] = torch.tensor([*before, *answer])
    return padded


# --- the mask ------------------------------------------------------------------------------------


ATTENTION_KINDS = {"full_attention", "sliding_attention"}


def has_attention_alone(config: Any) -> bool:
    """Whether all layers of a causal model of this `config` are attention that a mask bounds;
    others carry a state along the sequence."""
    return _find_kinds(config) <= ATTENTION_KINDS


def attention_windows(config: Any) -> dict[str, int | None]:
    """Kind of layer -> how many positions it sees, its own one included; None: all before it."""
    window = getattr(config.get_text_config(decoder=True), "sliding_window", None)
    kinds = _find_kinds(config)
    if not kinds:
        return {"full_attention" if window is None else "sliding_attention": window}
    return {kind: window if kind == "sliding_attention" else None for kind in sorted(kinds)}


def _find_kinds(config: Any) -> set[str]:
    return set(getattr(config.get_text_config(decoder=True), "layer_types", None) or ())


def build_attention_mask(
    packed: PackedRows, windows: Mapping[str, int | None], implementation: str, dtype: torch.dtype
) -> Any:
    """What a model with these windows takes as its mask: one for all layers, or one per kind."""
    masks = {kind: _build_mask(packed, w, implementation, dtype) for kind, w in windows.items()}
    return masks if len(masks) > 1 else next(iter(masks.values()))


def _build_mask(
    packed: PackedRows, window: int | None, implementation: str, dtype: torch.dtype
) -> Any:
    if implementation == "flex_attention":
        return _build_block_mask(packed, window)
    query, key = packed.segments[:, :, None], packed.segments[:, None, :]
    place = torch.arange(packed.ids.shape[1], device=packed.ids.device)
    visible = (place[:, None] >= place) & ((key == PROMPT) | (key == query))
    if window is not None:
        visible &= packed.positions[:, :, None] - packed.positions[:, None, :] < window
    # A place that sees nothing, in the padding, would be NaN.
    visible = (visible | (place[:, None] == place))[:, None]
    if implementation == "sdpa":
        return visible
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(
        ~visible, torch.finfo(dtype).min
    )


def _build_block_mask(packed: PackedRows, window: int | None) -> Any:
    """The same mask by blocks, of which FlexAttention leaves out those that are empty."""
    from torch.nn.attention.flex_attention import create_block_mask

    segments, positions = packed.segments, packed.positions

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        is_own = (segments[batch, key] == PROMPT) | (segments[batch, key] == segments[batch, query])
        visible = (query >= key) & is_own
        if window is not None:
            # Out of place: what FlexAttention compiles may not change a tensor.
            visible = visible & (positions[batch, query] - positions[batch, key] < window)
        return visible | (query == key)

    rows, width = packed.ids.shape
    return create_block_mask(sees, rows, None, width, width, device=str(packed.ids.device))
