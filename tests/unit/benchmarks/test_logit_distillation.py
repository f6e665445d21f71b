"""The benchmark that distils from logits, on tiny models in this process."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from benchmarks.logit_distillation import Counted, Distillation, Result, render
from tests import tiny

PROMPTS = ["what kind of thing is trout ?", "what kind of thing is violin ?"]


def make(objective: str, *, same: bool = False) -> Distillation:
    torch.manual_seed(0)
    teacher: Any = tiny.llama().eval()
    torch.manual_seed(1)
    student: Any = copy.deepcopy(teacher) if same else tiny.llama()
    tokenizer = tiny.tokenizer()
    tokenizer.padding_side = "left"
    outputs = [tokenizer(text).input_ids for text in ("it swims in water", "it plays")]
    return Distillation(
        Counted(teacher), Counted(student.eval()), tokenizer, PROMPTS, outputs, objective, 0, 1e-2
    )


@pytest.mark.parametrize("objective", ["logits", "gkd"])
def test_of_a_student_that_is_its_teacher_there_is_nothing_to_learn(objective: str) -> None:
    made = make(objective, same=True)
    assert float(made._compute_loss(PROMPTS, made.outputs)) == pytest.approx(0, abs=1e-5)


def test_the_loss_of_texts_is_the_model_s_own() -> None:
    """Of each output's tokens alone: transformers' loss of one row, with the prompt left out."""
    made = make("sequence_level")
    found = float(made._compute_loss(PROMPTS[:1], made.outputs[:1]))
    prompt = made.tokenizer(PROMPTS[0]).input_ids
    ids = torch.tensor([[*prompt, *made.outputs[0]]])
    labels = ids.clone()
    labels[:, : len(prompt)] = -100
    assert found == pytest.approx(float(made.student.model(input_ids=ids, labels=labels).loss))


@pytest.mark.parametrize("objective", ["sequence_level", "logits", "gkd"])
def test_a_training_brings_the_student_nearer_and_spends_its_budget(objective: str) -> None:
    made = make(objective)
    with torch.no_grad():
        before = float(made._compute_loss(PROMPTS, made.outputs))
    assert made.train(12, None) == 12
    made.student.model.eval()
    with torch.no_grad():
        assert float(made._compute_loss(PROMPTS, made.outputs)) < before
    spent = made.flops
    again = make(objective)
    steps = again.train(None, spent / 2)
    assert steps < 12
    assert spent / 2 <= again.flops < spent


def test_the_table_has_a_line_for_each_objective() -> None:
    results = [
        Result(objective, seed, right=6, n=10, steps=4, flops=2e12, seconds=1.0)
        for objective in ("gkd", "logits", "sequence_level")
        for seed in (0, 1)
    ]
    lines = render(results).splitlines()
    assert len(lines) == 5
    assert lines[2].startswith("| gkd | 2 | 10 | 0.600 [0.313, 0.832]; 0.600")
