"""Generation with transformers, by what is asked for and nothing that a base model brings along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor

from qcrd.method.student.enforcement import AnswerEnforcer, BeginningEnforcer
from qcrd.records.students.answer_form import AnswerForm
from qcrd.records.students.confidence import sum_answer_logprobs

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


class ChosenRecorder(LogitsProcessor):
    """The log-probability of every token that was chosen, at temperature 1 and before the output is
    held to anything. A token is known with the step behind it, the last one with the output."""

    def __init__(self) -> None:
        self._log_p: Tensor | None = None
        self._told: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._tell(input_ids)
        self._log_p = scores.float().log_softmax(-1)
        return scores

    def finish(self, output: Tensor) -> list[list[float]]:
        """Of each row's new tokens, the padding behind its end with them."""
        self._tell(output)
        rows: list[list[float]] = torch.stack(self._told, 1).tolist()
        return rows

    def _tell(self, ids: Tensor) -> None:
        if self._log_p is not None:
            self._told.append(self._log_p.gather(1, ids[:, -1:])[:, 0])


@dataclass(frozen=True)
class OutputForm:
    """What outputs are held to, and whether the log-probability of their answers is wanted.
    `beginnings`: the tokens that each row's output begins with. `begun`: they stand at the end of
    the rows that are given, where all that is said already is read at once."""

    answers: AnswerForm | None = None
    beginnings: Sequence[Sequence[int]] = ()
    begun: bool = False
    mark: Sequence[int] = ()
    """Where their answers begin; empty where an output is all answer."""
    tells_answers: bool = False


@dataclass(frozen=True)
class GeneratedRow:
    """A row's tokens with its end; `is_cut`: it has none. See `GeneratedText` for the rest."""

    tokens: list[int]
    is_cut: bool
    entropy: float | None
    answer_logprob: float | None


def generate(
    model: Any,
    ids: Tensor,
    mask: Tensor,
    settings: Mapping[str, Any],
    *,
    start: int,
    form: OutputForm,
) -> list[GeneratedRow]:
    """What `model` writes behind each row of `ids` [N, T], from place `start` of its output on, its
    beginning with it. A log-probability is told of what it wrote, not of what it began with."""
    entropies = EntropyRecorder() if settings["do_sample"] else None
    chosen = ChosenRecorder() if form.tells_answers else None
    recorders = [one for one in (entropies, chosen) if one is not None]
    enforcers: list[LogitsProcessor] = []
    begun = [list(tokens) for tokens in form.beginnings] if form.begun else [[]] * len(ids)
    if form.answers is not None:
        enforcers.append(AnswerEnforcer(form.answers, [start - len(tokens) for tokens in begun]))
    if form.beginnings and not form.begun:
        enforcers.append(BeginningEnforcer(form.beginnings, start))
    output: Tensor = model.generate(
        input_ids=ids,
        attention_mask=mask,
        logits_processor=[*recorders, *enforcers] or None,
        **settings,
    )
    trimmed = trim(output[:, start:], model.generation_config)
    steps = None if entropies is None else torch.stack(entropies.steps, 1).tolist()
    logprobs = None if chosen is None else chosen.finish(output)
    return [
        GeneratedRow(
            [*begun[i], *row],
            is_cut,
            None if steps is None else sum(steps[i][: len(row)]) / len(row),
            None
            if logprobs is None
            else sum_answer_logprobs(
                [*begun[i], *row], [0.0] * len(begun[i]) + logprobs[i][: len(row)], form.mark
            ),
        )
        for i, (row, is_cut) in enumerate(trimmed)
    ]


def trim(completions: Tensor, config: GenerationConfig) -> list[tuple[list[int], bool]]:
    """Each row's tokens up to its end, which is among them, and whether it has none: it was cut."""
    end_ids = set(_list_ends(config.eos_token_id))
    rows = []
    for row in completions.tolist():
        end = next((i for i, token in enumerate(row) if token in end_ids), None)
        rows.append((row if end is None else row[: end + 1], end is None))
    return rows
