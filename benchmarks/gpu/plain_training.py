"""A plain training: what one would write without this project, as the peer of a DSS step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import models
from benchmarks.gpu.timing import describe_rate, time_steps
from qcrd.method.losses import IGNORE_INDEX
from qcrd.method.prompts import EXPLAIN_PREFIX, PREDICT_PREFIX
from qcrd.method.student.causal import CausalStudent
from qcrd.method.training.training_example import TrainingExample


def measure_plain(
    student: CausalStudent,
    batch: list[TrainingExample],
    _: str,
    peak_flops: float | None,
    max_steps: int,
) -> dict[str, Any]:
    """DSS's targets as padded sequences through the model's own loss, with a fused AdamW on a
    GPU."""
    model, tokenizer = student.model, student.tokenizer
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=student.device.type == "cuda")
    pairs = [(PREDICT_PREFIX + e.text, e.label) for e in batch]
    pairs += [(EXPLAIN_PREFIX + e.text, e.positives[0].text) for e in batch]
    rows = [
        (tokenizer(prompt + student.suffix).input_ids, tokenizer(target).input_ids)
        for prompt, target in pairs
    ]

    def run() -> None:
        for start in (0, len(batch)):
            part = rows[start : start + len(batch)]
            width = max(len(prompt) + len(target) for prompt, target in part)
            ids = torch.full((len(part), width), models.PAD)
            labels = torch.full_like(ids, IGNORE_INDEX)
            for row, (prompt, target) in enumerate(part):
                end = len(prompt) + len(target)
                ids[row, :end] = torch.tensor([*prompt, *target])
                labels[row, len(prompt) : end] = torch.tensor(target)
            arguments = {
                "input_ids": ids,
                "attention_mask": (torch.arange(width) < _lengths(part)[:, None]).long(),
                "labels": labels,
            }
            with torch.autocast(student.device.type, torch.bfloat16, enabled=student.bf16):
                moved = {name: tensor.to(student.device) for name, tensor in arguments.items()}
                loss = model(**moved, use_cache=False).loss
            (0.5 * loss).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    timed = time_steps(run, student.device, max_steps)
    tokens = sum(len(prompt) + len(target) for prompt, target in rows)
    return describe_rate(timed, tokens, None, peak_flops)


def _lengths(rows: list[tuple[list[int], list[int]]]) -> Tensor:
    return torch.tensor([len(prompt) + len(target) for prompt, target in rows])
