"""Gradients of ranks are added up in buckets; that the sums are right is tested with real ranks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qcrd.method.distributed import gradients


def test_every_gradient_is_in_one_bucket_and_a_parameter_without_one_stays_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []

    def double(tensor: torch.Tensor) -> None:
        if tensor.dtype is torch.float32:
            sizes.append(tensor.numel())
            tensor *= 2

    monkeypatch.setattr(gradients.dist, "all_reduce", double)
    monkeypatch.setattr(gradients, "BUCKET_ELEMENTS", 6)
    parameters = [nn.Parameter(torch.ones(shape)) for shape in [(2, 2), (1,), (3,), (20,), (2,)]]
    for number, parameter in enumerate(parameters):
        if number != 1:
            parameter.grad = torch.full_like(parameter, float(number))
    gradients.sum_gradients(parameters)
    assert sizes == [4, 3, 20, 2]
    assert parameters[1].grad is None
    for number, parameter in enumerate(parameters):
        if number != 1:
            assert parameter.grad is not None
            assert parameter.grad.shape == parameter.shape
            assert torch.equal(parameter.grad, torch.full_like(parameter, 2.0 * number))
