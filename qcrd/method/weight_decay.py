"""Which parameters AdamW's weight decay is for: matrices; norms and biases have none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn


def make_decay_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], weight_decay: float
) -> list[dict[str, Any]]:
    """Groups of trained parameters for an optimizer, with the decay of each; none is empty.

    Names tell what shapes do not: T5's relative position bias is a table of two dimensions, and
    Cohere's norms of queries and keys have a scale for each head.
    """
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            is_free = parameter.ndim < 2 or "bias" in name or _is_of_norm(name)
            (free if is_free else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _is_of_norm(name: str) -> bool:
    """Whether a parameter is a norm's, by the module that it is in: `q_norm`, `ln_f`."""
    *_, module, _ = ("", *name.lower().split("."))
    return "norm" in module or module == "ln" or module.startswith("ln_")
