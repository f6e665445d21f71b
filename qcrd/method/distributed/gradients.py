"""Gradients of ranks that each hold the whole student, added up."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Give every rank the sum of all ranks' gradients, the same bits on each. A parameter that has
    a gradient on some ranks has one on all of them then; one that has none anywhere stays without,
    so that the optimizer leaves it alone."""
    has_gradient = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32)
    dist.all_reduce(has_gradient)
    pending = []
    for parameter, ranks_with_one in zip(parameters, has_gradient.tolist(), strict=True):
        if not ranks_with_one:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        # Started one behind the other: what each waits for the network is waited for together.
        pending.append(dist.all_reduce(parameter.grad, async_op=True))
    for work in pending:
        work.wait()
