"""LoRA students: adapters alone are trained, and the published model does not know of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from qcrd.errors import Invalid
from qcrd.method.student.base import Student
from qcrd.method.student.loading import load_student
from qcrd.method.student.lora import merge_adapters
from qcrd.method.training.optimizer_step import OptimizerStep
from qcrd.method.training.progress import StepFinished
from qcrd.method.training.schedule import make_schedule
from qcrd.method.training.trainer import Trainer
from qcrd.method.training.weight_history import copy_trainable_weights
from qcrd.records.specs.training_spec import Hyperparameters, LoraSpec, StudentSpec
from tests import tiny
from tests.unit.method.training.test_trainer import judge, lessons, spec, validate

LORA = StudentSpec(lora=LoraSpec(rank=4, alpha=8))
HYPER = Hyperparameters(max_question_tokens=32, max_rationale_tokens=16)


def base(folder: Path, kind: str) -> Path:
    model = {"t5": tiny.t5, "llama": tiny.llama}[kind]()
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_only_adapters_are_trained_and_merging_keeps_what_they_say(
    tmp_path: Path, kind: str
) -> None:
    student = load_student(base(tmp_path / "base", kind), LORA, HYPER, seed=0)
    frozen = {n: p.clone() for n, p in student.model.named_parameters() if not p.requires_grad}
    assert all("lora_" in name for name in copy_trainable_weights(student))
    made = make_schedule("qcrd", spec(iterations=12, learning_rate=2e-2), n_examples=8, seed=0)
    steps = [r for r in Trainer(student, lessons(), made, validate, judge()).run()
             if isinstance(r, StepFinished)]  # fmt: skip
    assert steps[-1].losses["label"] < steps[0].losses["label"]
    for name, parameter in student.model.named_parameters():
        assert name not in frozen or torch.equal(parameter, frozen[name]), name
    merge_adapters(student.model).save_pretrained(tmp_path / "student")
    auto = AutoModelForSeq2SeqLM if kind == "t5" else AutoModelForCausalLM
    plain = auto.from_pretrained(tmp_path / "student").eval()
    assert not any("lora" in name for name, _ in plain.named_parameters())
    ids = torch.tensor([[3, 5, 7, 9]])
    asked = {"input_ids": ids, "decoder_input_ids": ids} if kind == "t5" else {"input_ids": ids}
    with torch.no_grad():
        expected = student.model.eval()(**asked).logits
        torch.testing.assert_close(plain(**asked).logits, expected, rtol=1e-4, atol=1e-4)


def test_in_bf16_what_is_frozen_takes_half_the_memory_and_adapters_keep_their_digits(
    tmp_path: Path,
) -> None:
    hyper = HYPER.model_copy(update={"precision": "bf16"})
    student = load_student(base(tmp_path / "base", "llama"), LORA, hyper, seed=0)
    kinds = {(p.requires_grad, p.dtype) for p in student.model.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    made = make_schedule("qcrd", spec(iterations=12, learning_rate=2e-2), n_examples=8, seed=0)
    steps = [r for r in Trainer(student, lessons(), made, validate, judge()).run()
             if isinstance(r, StepFinished)]  # fmt: skip
    assert steps[-1].losses["label"] < steps[0].losses["label"]
    merge_adapters(student.model).save_pretrained(tmp_path / "student")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "student").eval()
    ids = torch.tensor([[3, 5, 7, 9]])
    with torch.no_grad(), student.autocast():
        expected = student.model.eval()(input_ids=ids).logits
    with torch.no_grad():
        found = plain(input_ids=ids).logits
    torch.testing.assert_close(found.float(), expected.float(), rtol=0.05, atol=0.05)


def count_passes(student: Student) -> Counter[str]:
    """Passes with gradients through the first layer's first linear map, from now on."""
    passes: Counter[str] = Counter()
    layer = next(m for m in student.model.modules() if isinstance(m, torch.nn.ModuleList))[0]
    linear = next(m for m in layer.modules() if isinstance(m, torch.nn.Linear))
    linear.register_forward_pre_hook(
        lambda *_: passes.update({"with gradients": torch.is_grad_enabled()})
    )
    return passes


@pytest.mark.parametrize("kind", ["t5", "llama"])
@pytest.mark.parametrize("lora", [None, LORA.lora])
def test_activations_that_are_computed_again_give_the_same_gradients(
    tmp_path: Path, kind: str, lora: LoraSpec | None
) -> None:
    norms, folder = [], base(tmp_path / "base", kind)
    for checkpointing in (False, True):
        student_spec = StudentSpec(lora=lora, gradient_checkpointing=checkpointing)
        student = load_student(folder, student_spec, HYPER, seed=0)
        step = OptimizerStep(student, make_schedule("qcrd", spec(), n_examples=8, seed=0))
        passes = count_passes(student)
        losses = step.backward(lessons(), {}, seed=0)
        norms.append((losses, step.clip_gradients(), passes["with gradients"]))
    (losses, norm, once), (same, same_norm, again) = norms
    assert same == pytest.approx(losses)
    assert same_norm == pytest.approx(norm, rel=1e-5)
    assert again > once


def test_a_model_without_adapters_is_merged_already() -> None:
    model = tiny.t5()
    assert merge_adapters(model) is model


def test_an_encoder_only_base_takes_no_adapters(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="to be trained whole") as refused:
        load_student(tiny.save_base(tmp_path / "bert"), LORA, HYPER, seed=0)
    assert refused.value.param == "student.lora"
