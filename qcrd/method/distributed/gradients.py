"""Gradients of ranks that each hold the whole student, added up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET_ELEMENTS = 2**24
"""Numbers that are added up at a time, 64 MiB: a call takes about a millisecond however few they
are, which the 280 gradients of a student's adapters would have to wait for one by one."""


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Give every rank the sum of all ranks' gradients, the same bits on each. A parameter that has
    a gradient on some ranks has one on all of them then; one that has none anywhere stays without,
    so that the optimizer leaves it alone."""
    has_gradient = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32)
    dist.all_reduce(has_gradient)
    gradients = []
    for parameter, ranks_with_one in zip(parameters, has_gradient.tolist(), strict=True):
        if not ranks_with_one:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    for bucket in _fill_buckets(gradients):
        total = torch.cat([gradient.flatten() for gradient in bucket])
        dist.all_reduce(total)
        parts = total.split([gradient.numel() for gradient in bucket])
        for gradient, part in zip(bucket, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def _fill_buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Runs of gradients with no more than `BUCKET_ELEMENTS`, or one that has more."""
    bucket, size = list[Tensor](), 0
    for gradient in gradients:
        if bucket and size + gradient.numel() > BUCKET_ELEMENTS:
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += gradient.numel()
    if bucket:
        yield bucket
