"""Sharding of a step's module over the ranks by torch's `fully_shard`, and whole weights again.

A mesh of (n, 1) keeps a whole copy on each rank: data parallelism. One of (1, n) leaves an n-th of
every weight, gradient and moment on each. Whole copies on CPUs need no mesh: `fully_shard` would
copy every weight at each call of the model, which took a third of a step, and hides no waiting
there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor


def make_mesh(device_type: str, *, replicas: int, shards: int) -> DeviceMesh | None:
    """The mesh of all ranks; None where each does best with a plain whole student of its own."""
    if replicas * shards < 2 or (shards == 1 and device_type == "cpu"):
        return None
    return build_mesh(device_type, replicas=replicas, shards=shards)


def build_mesh(device_type: str, *, replicas: int, shards: int) -> DeviceMesh:
    """A mesh of all ranks, needed or not."""
    return init_device_mesh(device_type, (replicas, shards), mesh_dim_names=("replicate", "shard"))


def shard_module(module: nn.Module, mesh: DeviceMesh, *, bf16: bool = False) -> None:
    """Shard `module`, the root whose forward is all that is called, and its layers one by one.

    Gradients are summed over the ranks, not averaged: the loss of each is divided by the whole
    step's counts already. `bf16`: computes in bf16, with weights and gradients in fp32.
    """
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None,
        reduce_dtype=torch.float32 if bf16 else None,
        cast_forward_inputs=False,  # they are questions
    )
    for layer in _find_layers(module):
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh, mp_policy=policy)
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)


def _find_layers(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of the model's stacks: the elements of its outermost lists."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _find_layers(child)


def gather_whole(weights: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Whole tensors of what may be shards, on every rank; all ranks call it with the same names."""
    return {
        name: to_plain(tensor.to(device)) if isinstance(tensor, DTensor) else tensor
        for name, tensor in weights.items()
    }


def to_plain(tensor: Tensor) -> Tensor:
    """The whole tensor of one that may be shards."""
    if not isinstance(tensor, DTensor):
        return tensor
    whole: Tensor = tensor.full_tensor()
    return whole
