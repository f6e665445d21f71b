"""Compute of a model, in floating-point operations, and what a device computes with."""

from __future__ import annotations

import torch


def count_flops(parameters: int, positions: int) -> int:
    """2 operations per parameter and position forward, 4 more when a backward pass follows."""
    return (6 if torch.is_grad_enabled() else 2) * parameters * positions


def has_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bf16 matrices natively, and so faster than fp32 ones."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16"))
