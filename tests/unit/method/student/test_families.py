"""Every family of students and judges that is offered: its own loss, training, reloading."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    DistilBertConfig,
    DistilBertModel,
    ModernBertConfig,
    ModernBertModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5ForConditionalGeneration,
)

from qcrd.method.judge.model import Judge, LocalJudge
from qcrd.method.student.base import Student
from qcrd.method.student.loading import load_encoder, load_student
from qcrd.method.student.targets import Target
from qcrd.method.training.progress import StepFinished
from qcrd.method.training.schedule import make_schedule
from qcrd.method.training.trainer import Trainer
from qcrd.records.specs.training_spec import Hyperparameters, JudgeSpec, StudentSpec
from tests import tiny
from tests.families import plain_loss
from tests.unit.method.training.test_trainer import judge, lessons, spec, student, validate

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4}
VOCABULARY = len(tiny.WORDS) + 3
HYPER = Hyperparameters(max_question_tokens=32, max_rationale_tokens=16)


def flan_t5() -> Any:
    """Unlike T5: gated activation, and an output head of its own."""
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
            decoder_start_token_id=0, dropout_rate=0.0, feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
        )
    )  # fmt: skip


def bart() -> Any:
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=VOCABULARY, d_model=32, encoder_layers=2, decoder_layers=2,
            encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64,
            decoder_ffn_dim=64, max_position_embeddings=64, dropout=0.0, pad_token_id=0,
            bos_token_id=2, eos_token_id=1, decoder_start_token_id=1, forced_eos_token_id=1,
        )
    )  # fmt: skip


def qwen(config: type, model: type) -> Callable[[], Any]:
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    given = {**SIZES, **HEADS, **ends, "vocab_size": VOCABULARY, "num_key_value_heads": 2}
    if config is Qwen3Config:
        given["head_dim"] = 8
    return lambda: model(config(**given))


STUDENTS: dict[str, Callable[[], Any]] = {
    "t5": tiny.t5,
    "flan-t5": flan_t5,
    "bart": bart,
    "llama": tiny.llama,
    "qwen2": qwen(Qwen2Config, Qwen2ForCausalLM),
    "qwen3": qwen(Qwen3Config, Qwen3ForCausalLM),
}


@pytest.fixture(params=STUDENTS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    STUDENTS[request.param]().save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def load(folder: Path) -> Student:
    loaded = load_student(folder, StudentSpec(), HYPER, seed=0)
    # A folder with Qwen2's config is read with Qwen's own byte-level pieces; ours has whole words.
    words = tiny.tokenizer()
    words.padding_side = loaded.tokenizer.padding_side
    loaded.tokenizer = words
    return loaded


def test_the_loss_is_the_models_own(folder: Path) -> None:
    loaded = load(folder)
    loaded.model.eval()
    questions = ["what is a trout ?", "what kind of thing is the violin ?"]
    targets = ["it swims in water .", "animal", "so it plays music"]
    owner = [0, 0, 1]
    with torch.no_grad():
        total, _ = loaded.cross_entropy(questions, owner, [Target(target) for target in targets])
        for i, target in enumerate(targets):
            own = plain_loss(loaded, questions[owner[i]], target)
            assert float(total[i]) == pytest.approx(float(own), abs=1e-4)


def test_the_whole_method_trains_it_and_it_is_the_same_when_loaded_again(folder: Path) -> None:
    loaded = load(folder)
    made = make_schedule("qcrd", spec(iterations=25, learning_rate=5e-3), n_examples=8, seed=0)
    trainer = Trainer(loaded, lessons(), made, validate, judge())
    steps = [record for record in trainer.run() if isinstance(record, StepFinished)]
    assert steps[-1].losses["label"] < 0.7 * steps[0].losses["label"]
    loaded.model.save_pretrained(folder.parent / "done")
    loaded.tokenizer.save_pretrained(folder.parent / "done")
    asked = [f"predict: {lesson.text}" for lesson in lessons()]
    said = loaded.generate(asked, max_new_tokens=4)
    assert load(folder.parent / "done").generate(asked, max_new_tokens=4) == said
    assert any(said)


ENCODERS: dict[str, Callable[[], Any]] = {
    "bert": tiny.bert,
    "distilbert": lambda: DistilBertModel(
        DistilBertConfig(vocab_size=VOCABULARY, dim=32, n_layers=2, n_heads=4, hidden_dim=64)
    ),
    "roberta": lambda: RobertaModel(
        RobertaConfig(
            vocab_size=VOCABULARY, pad_token_id=0, max_position_embeddings=64, **SIZES, **HEADS
        )
    ),
    "modernbert": lambda: ModernBertModel(
        ModernBertConfig(
            vocab_size=VOCABULARY, pad_token_id=0, bos_token_id=1, eos_token_id=1,
            cls_token_id=1, sep_token_id=1, max_position_embeddings=64, **SIZES, **HEADS,
        )
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ENCODERS)
def test_any_encoder_can_be_the_judge(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    ENCODERS[kind]().save_pretrained(tmp_path)
    words = tiny.tokenizer()
    words.cls_token, words.sep_token = "<unk>", "</s>"
    words.save_pretrained(tmp_path)
    encoder, tokenizer = load_encoder(tmp_path)
    settings = JudgeSpec(pretrain_steps=40, batch_size=8, hidden=16, learning_rate=5e-3, loss="bce")
    port = LocalJudge(Judge(encoder, tokenizer, hidden=16, max_tokens=32), settings, seed=0)
    made = make_schedule("qcrd", spec(), n_examples=8, seed=0)
    port.pretrain(
        Trainer(student(), lessons(), made, validate, port)._make_training_pairs(lessons())
    )
    right = port.score([(x.text, r.text) for x in lessons() for r in x.positives])
    wrong = port.score([(x.text, r.text) for x in lessons() for r in x.negatives])
    assert sum(right) / len(right) > sum(wrong) / len(wrong) + 0.2
