"""What a step measures and what it costs: no dropout where candidates are chosen, no padding in
the work.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from qcrd.method.student.base import Student
from qcrd.method.student.seq2seq import Seq2SeqStudent
from qcrd.method.student.targets import Target
from qcrd.method.training.candidates import Candidates, SelectedCandidates
from qcrd.method.training.optimizer_step import OptimizerStep
from qcrd.method.training.schedule import make_schedule
from tests import tiny
from tests.unit.method.training.test_trainer import lessons, spec, student

PROMPTS = [f"explain: {lesson.text}" for lesson in lessons()]
LIMITS = {"max_question_tokens": 32, "max_target_tokens": 16}


# --- candidates are measured without dropout (A4) -------------------------------------------------


def t5_with_dropout() -> Student:
    torch.manual_seed(0)
    config = T5Config.from_dict({**tiny.t5().config.to_dict(), "dropout_rate": 0.5})
    return Seq2SeqStudent(T5ForConditionalGeneration(config), tiny.tokenizer(), **LIMITS)


def test_selection_is_the_same_under_every_seed_of_dropout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, batch = t5_with_dropout(), lessons()
    step = OptimizerStep(made, make_schedule("qcrd", spec(), n_examples=8, seed=0))
    picks: list[list[str]] = []
    select = Candidates.select

    def watch(slate: Candidates, *given: Any, **more: Any) -> SelectedCandidates:
        found = select(slate, *given, **more)
        picks.append([r.id for _, r in found.selected])
        return found

    monkeypatch.setattr(Candidates, "select", watch)
    losses = [step.compute_loss(batch, {}, seed).total.item() for seed in (1, 2)]
    assert losses[0] != losses[1]  # dropout is on where the picked ones are learned
    assert picks[:2] == picks[2:]
    made.model.eval()
    with torch.no_grad():
        targets = [Target(r.text) for lesson in batch for r in lesson.positives]
        owner = [row for row, lesson in enumerate(batch) for _ in lesson.positives]
        total, count = made.cross_entropy(PROMPTS, owner, targets)
    lowest = (total / count).view(len(batch), 2).argmin(1).tolist()
    assert picks[0] == [f"{row}/{place}" for row, place in enumerate(lowest)]


# --- work is that of real tokens (A14) ------------------------------------------------------------


@pytest.mark.parametrize("kind", ["t5", "llama"])
@pytest.mark.parametrize("method", ["qcrd", "single_task"])
def test_the_work_of_a_step_depends_neither_on_its_parts_nor_on_padding(
    kind: str, method: str
) -> None:
    schedule = make_schedule(method, spec(), n_examples=8, seed=0)
    work = set()
    for parts, length_groups, limit in [(1, True, 8192), (3, False, 8192), (8, True, 12)]:
        made = student(kind, max_batch_target_tokens=limit)
        made.length_groups = length_groups
        step = OptimizerStep(made, replace(schedule, micro_batches=parts))
        step.backward(lessons(), {}, seed=0)
        work.add((made.flops, made.tokens))
    assert len(work) == 1


def test_tokens_by_hand() -> None:
    """Finetuning reads `predict : trout ? </s>` and says `animal </s>`: 5 and 2 tokens."""
    made = student()
    item = replace(lessons()[0], text="trout ?")
    step = OptimizerStep(made, make_schedule("finetune", spec(), n_examples=8, seed=0))
    step.backward([item], {}, seed=0)
    assert made.tokens == 7


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_a_step_in_bf16_has_the_gradient_of_all_its_terms(kind: str) -> None:
    """Weights that are cast once for all calls of a step keep their gradient: of the label, and of
    the rationales that were picked by a call without any."""
    norms = {}
    for bf16 in (False, True):
        for method in ("finetune", "qcrd"):
            learner = student(kind)
            learner.bf16 = bf16
            step = OptimizerStep(learner, make_schedule(method, spec(), n_examples=8, seed=0))
            step.backward(lessons(), {}, seed=0)
            norms[method, bf16] = step.clip_gradients()
    for method in ("finetune", "qcrd"):
        assert norms[method, True] == pytest.approx(norms[method, False], rel=0.05)
    assert norms["qcrd", False] != pytest.approx(norms["finetune", False], rel=0.1)
