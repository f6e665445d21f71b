"""Generation with transformers, by what is asked for and nothing that a base model brings along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor

TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


def reset_generation_config(model: Any, end_token_id: int | None = None) -> None:
    """Leave nothing but the token ids of `model`'s generation config: bases ship beams, penalties
    and forced tokens, under which no greedy answer is greedy. It is published so, and a student is
    served as it was measured. `end_token_id`, with which the student learns to end, ends what it
    says also where the base names another end, or none."""
    shipped = model.generation_config or GenerationConfig()
    own = {name: getattr(shipped, name, None) for name in TOKEN_IDS}
    if end_token_id is not None and end_token_id not in (ends := _list_ends(own["eos_token_id"])):
        own["eos_token_id"] = [*ends, end_token_id] if ends else end_token_id
    model.generation_config = GenerationConfig(**{k: v for k, v in own.items() if v is not None})


def _list_ends(ends: int | list[int] | None) -> list[int]:
    return ends if isinstance(ends, list) else [] if ends is None else [ends]


def make_settings(max_new_tokens: int, temperature: float, top_p: float) -> dict[str, Any]:
    """Keyword arguments of transformers' `generate`. Top-k is off: the library's default of 50
    would cut the distribution that the paper samples."""
    if temperature <= 0:
        return {"max_new_tokens": max_new_tokens, "do_sample": False}
    return {
        "max_new_tokens": max_new_tokens,
        "do_sample": True,
        "temperature": temperature,
        "top_k": 0,
        "top_p": top_p,
    }


class EntropyRecorder(LogitsProcessor):
    """The entropy of every distribution that is drawn from, as it is at temperature 1."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        log_p = scores.float().log_softmax(-1)
        self.steps.append(-(log_p.exp() * log_p).nan_to_num(0).sum(-1))
        return scores


def generate(
    model: Any,
    ids: Tensor,
    mask: Tensor,
    settings: Mapping[str, Any],
    enforcers: Sequence[LogitsProcessor] = (),
) -> tuple[Tensor, list[list[float]]]:
    """Token ids as transformers returns them, and each row's entropies in nats, one per new token;
    none where the answer is greedy."""
    recorder = EntropyRecorder() if settings["do_sample"] else None
    processors = [*([] if recorder is None else [recorder]), *enforcers]
    output: Tensor = model.generate(
        input_ids=ids, attention_mask=mask, logits_processor=processors or None, **settings
    )
    if recorder is None:
        return output, [[] for _ in ids]
    return output, torch.stack(recorder.steps, 1).tolist()


def trim(completions: Tensor, config: GenerationConfig) -> list[tuple[list[int], bool]]:
    """Each row's tokens up to its end, which is among them, and whether it has none: it was cut."""
    end_ids = set(_list_ends(config.eos_token_id))
    rows = []
    for row in completions.tolist():
        end = next((i for i, token in enumerate(row) if token in end_ids), None)
        rows.append((row if end is None else row[: end + 1], end is None))
    return rows
