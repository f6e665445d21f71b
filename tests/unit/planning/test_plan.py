"""Memory by part against a real optimizer and real activations; what is refused, and the advice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from qcrd.cli.main import app
from qcrd.method.student.loading import load_student
from qcrd.method.training.negatives.sampler import copy_student
from qcrd.method.training.optimizer_step import OptimizerStep
from qcrd.method.training.schedule import make_schedule
from qcrd.method.training.training_example import TrainingExample
from qcrd.method.training.weight_history import copy_trainable_weights
from qcrd.planning.architectures import count_architecture
from qcrd.planning.memory import FP32, count_activations, count_trained, plan_memory
from qcrd.planning.plan import Lengths, Machine, make_plan
from qcrd.planning.steps import PEAK_FLOPS, UTILISATION, StepTokens, count_step_tokens
from qcrd.records.base_models import gets_new_decoder
from qcrd.records.specs.spec import JobSpec, MethodName, MethodSpec
from tests import tiny

LLAMA_8B = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "tie_word_embeddings": False,
}  # fmt: skip
GIB = 2**30


def size(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("kind", "student"),
    [("llama", {}), ("llama", {"lora": {"rank": 4}}), ("t5", {}), ("bert", {}),
        ("bert", {"freeze": "nothing"})],
)  # fmt: skip
def test_a_real_students_state_has_the_planned_bytes(
    kind: str, student: dict[str, Any], precision: str, tmp_path: Path
) -> None:
    """Weights, gradients, moments, one entry of the history and what a copy that samples has of its
    own, after one step."""
    folder = tiny.save_base(tmp_path, kind)
    config = json.loads((folder / "config.json").read_text())
    body = {"student": student, "hyperparameters": {"precision": precision}}
    spec = MethodSpec.model_validate(body)
    loaded = load_student(folder, spec.student, spec.hyperparameters, seed=0)
    step = OptimizerStep(loaded, make_schedule("finetune", spec, n_examples=1, seed=0))
    step.backward([TrainingExample("a", "what is a trout ?", "animal", "animal")], {}, 0)
    step.apply(1e-3)
    is_encoder = gets_new_decoder(config)
    architecture = count_architecture(config, decoder_layers=spec.student.decoder_layers)
    trained = count_trained(architecture, spec, is_encoder=is_encoder)
    planned = plan_memory(
        architecture,
        spec,
        MethodName.QCRD,
        StepTokens(1, 1),
        trained=trained,
        bf16=precision == "bf16",
    )
    assert planned.card["weights"] == size(loaded.model.parameters())
    assert planned.card["gradients"] == FP32 * sum(p.numel() for p in step.parameters())
    moments = [t for t in step.get_moments().values() if t.numel() > 1]
    unused = [p for p in step.parameters() if p.grad is None]
    assert planned.card["moments"] == size(moments) + 2 * size(unused)
    kept = planned.host["weight history and best"] / (spec.negatives.lag + 2)
    assert kept == size(copy_trainable_weights(loaded).values())
    shared = {p.data_ptr() for p in loaded.model.parameters()}
    own = [p for p in copy_student(loaded).model.parameters() if p.data_ptr() not in shared]
    assert planned.card["copy of the student that samples"] == size(own)


@pytest.mark.parametrize("recomputed", [False, True])
def test_activations_are_near_what_a_model_keeps(recomputed: bool) -> None:
    """In fp32, of the saved tensors that are no parameters; the scores of attention, which fused
    kernels do not keep, and the logits are left out by the length and the head. Computed again, a
    layer's inputs stay behind the forward pass, and one layer's tensors come on top."""
    torch.manual_seed(0)
    model = tiny.llama().train()
    if recomputed:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    weights = {p.data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.randint(3, 30, (16, 16))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        states = model.model(input_ids=ids, use_cache=False).last_hidden_state
    assert states.requires_grad
    architecture = count_architecture(model.config.to_dict())
    planned = ids.numel() * count_activations(architecture, FP32, recomputed=recomputed)
    if not recomputed:
        assert 0.6 < planned / sum(kept.values()) < 1.6
        return
    one_layer = ids.numel() * count_activations(architecture, FP32) // architecture.layers
    assert planned - one_layer <= sum(kept.values()) < planned


def job(**method: Any) -> JobSpec:
    kind = method.pop("type", "dss")
    body = {"model": "base", "training_file": "t", "method": {"type": kind, kind: method}}
    return JobSpec.model_validate(body)


LENGTHS = Lengths(question=100, rationale=50, label=5)


def test_the_tokens_of_a_step_worked_by_hand() -> None:
    """16 questions. dss reads each twice and writes a label and a rationale: 16 * (200 + 5 + 50);
    qcrd has five positives and one negative: 16 * (200 + 5 + 6 * 50); finetune 16 * (100 + 5)."""
    asked = vars(LENGTHS)
    dss = count_step_tokens(MethodSpec(), MethodName.DSS, **asked)
    assert dss == StepTokens(16 * 255, 16 * 55)
    assert count_step_tokens(MethodSpec(), MethodName.QCRD, **asked).read == 16 * 505
    assert count_step_tokens(MethodSpec(), MethodName.FINETUNE, **asked).read == 16 * 105


def test_time_follows_from_the_work_or_from_a_measured_speed() -> None:
    """1,000 questions are 63 steps of a pass, 630 in all."""
    spec = job()
    assumed = make_plan(spec, LLAMA_8B, Machine(), LENGTHS, questions=1000)
    head = 128256 * 4096
    work = 6 * ((8_030_261_248 - 2 * head - 65 * 4096) * 16 * 255 + head * 16 * 55)
    assert assumed.step_seconds == pytest.approx(work / (PEAK_FLOPS * UTILISATION))
    assert assumed.steps == 630
    measured = Machine(tokens_per_second=4080.0)
    assert make_plan(spec, LLAMA_8B, measured, LENGTHS, questions=1000).seconds == 630


def test_what_does_not_fit_is_told_what_would() -> None:
    """8 B in full is 16 bytes per parameter before any activation: 120 GiB. With shards a rank
    still holds a whole copy that it samples from."""
    card = Machine(gpu_bytes=80 * GIB)
    full = make_plan(job(), LLAMA_8B, card, LENGTHS)
    assert full.fits is False
    assert full.memory.card_bytes > 120 * GIB
    assert any("no single change" in line for line in full.advice)
    small = {**LLAMA_8B, "num_hidden_layers": 4, "vocab_size": 32000}
    needed = make_plan(job(), small, Machine(), LENGTHS).memory.card_bytes
    tight = make_plan(job(), small, Machine(gpu_bytes=needed), LENGTHS)  # none is left free
    assert tight.fits is False
    assert "`method.dss.hyperparameters.batch_size: 8` (now 16)" in tight.advice
    assert make_plan(job(), small, Machine(gpu_bytes=400 * GIB), LENGTHS).fits is True


def test_shards_part_the_state_and_not_the_copy_that_samples() -> None:
    one = make_plan(job(type="qcrd"), LLAMA_8B, Machine(), LENGTHS).memory.card
    four = make_plan(job(type="qcrd"), LLAMA_8B, Machine(4, 4), LENGTHS).memory.card
    for part in ("weights", "gradients", "moments"):
        assert four[part] == one[part] // 4
    assert four["copy of the student that samples"] == one["copy of the student that samples"]


def run(folder: Path, *options: str, config: dict[str, Any] = LLAMA_8B) -> Any:
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "train.jsonl").write_text(
        "".join(json.dumps({"question": f"{n:040}", "label": str(n)}) + "\n" for n in range(20))
    )
    (folder / "job.yaml").write_text(
        "model: base\ntraining_file: train.jsonl\nmethod: {type: dss, dss: {}}\n"
    )
    arguments = ["plan", str(folder / "job.yaml"), "--config", str(folder), *options]
    return CliRunner().invoke(app, arguments)


def test_the_command_says_what_it_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 questions less 2 for validation are 2 steps a pass; 40 characters are 10 tokens."""
    done = run(tmp_path, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    assert told["computed"] is True
    assert (told["parameters"], told["steps"]) == (8_030_261_248, 20)
    assert told["step_tokens"]["read"] == 16 * (2 * 10 + 8 + 100)
    assert "every figure is computed" in " ".join(run(tmp_path).output.split())
    monkeypatch.setenv("QCRD_PROCESSES", "auto")
    assert json.loads(run(tmp_path, "--json").output) == told
    monkeypatch.setenv("QCRD_PROCESSES", "few")
    assert "'few' is no" in " ".join(run(tmp_path).output.split())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--gpu-memory", "lots"), "--gpu-memory: 'lots' is no size"),
        (("--processes", "3", "--shards", "2"), "--shards: 3 processes"),
        (("--config", "nowhere.json"), "--config: nowhere.json cannot be read"),
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    done = run(tmp_path, *options)
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())


def test_exit_codes_of_what_does_not_fit_and_what_cannot_be_counted(tmp_path: Path) -> None:
    small = run(tmp_path, "--gpu-memory", "1GiB")
    assert small.exit_code == 1
    assert "does not fit" in small.output
    other = run(tmp_path, config={"model_type": "mamba"})
    assert other.exit_code == 2
    assert "'mamba'" in other.output
