"""Which parameters AdamW's weight decay is for: matrices; norms and biases have none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn


def make_decay_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float
) -> list[dict[str, Any]]:
    """Groups of trained parameters for an optimizer, with the decay of each; none is empty.

    A norm's scale has one dimension, and so has a bias. T5's relative position bias is a table of
    two: its name tells.
    """
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            is_free = parameter.ndim < 2 or "bias" in name
            (free if is_free else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
