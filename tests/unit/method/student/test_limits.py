"""Questions longer than a student's window, and control tokens in texts of data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

from qcrd.method.prompts import EXPLAIN_PREFIX, format_question
from qcrd.method.student.base import Student
from qcrd.method.student.loading import load_student
from qcrd.method.student.targets import Target
from qcrd.records.rationales import Question
from qcrd.records.specs.task import AnswerKind, TaskSpec
from qcrd.records.specs.training_spec import Hyperparameters, StudentSpec
from qcrd.records.students.control_tokens import ControlTokenSplitter
from tests import tiny

POSITIONS = 32
VOCABULARY = len(tiny.WORDS) + 3
LONG = "what is a trout " * 25


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY, n_positions=POSITIONS, n_embd=32, n_layer=2, n_head=4,
            bos_token_id=1, eos_token_id=1,
        )
    )  # fmt: skip


def roberta() -> PreTrainedModel:
    return RobertaModel(
        RobertaConfig(
            vocab_size=VOCABULARY, max_position_embeddings=POSITIONS, hidden_size=32,
            intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, pad_token_id=0,
            bos_token_id=1, eos_token_id=1,
        )
    )  # fmt: skip


def load(model: PreTrainedModel, folder: Path) -> Student:
    model.save_pretrained(folder)
    tokenizer = tiny.tokenizer()
    tokenizer.cls_token = tokenizer.sep_token = "</s>"
    tokenizer.save_pretrained(folder)
    return load_student(folder, StudentSpec(decoder_layers=1), Hyperparameters(), seed=0)


@pytest.mark.parametrize("model", [gpt2, roberta])
def test_question_and_answer_fit_the_window(model: object, tmp_path: Path) -> None:
    assert callable(model)
    student = load(model(), tmp_path)
    total, _ = student.cross_entropy(
        [LONG, "what is a trout"], [0, 1], [Target("it swims in water " * 25), Target("animal")]
    )
    assert torch.isfinite(total).all()
    assert len(student.generate([LONG], max_new_tokens=256)) == 1
    assert student.is_cut(LONG)
    assert not student.is_cut("what is a trout")


@pytest.mark.parametrize("kind", ["t5", "llama", "bert", "chat"])
def test_of_a_long_question_what_is_asked_and_its_options_stay(kind: str, tmp_path: Path) -> None:
    """The prefix says which task it is, and the options are what is chosen from."""
    template = tiny.CHAT_TEMPLATE if kind == "chat" else None
    base = tiny.save_base(tmp_path, "llama" if kind == "chat" else kind, chat_template=template)
    spec = StudentSpec(decoder_layers=1, prompt="chat" if template else "plain")
    hyper = Hyperparameters(max_question_tokens=24, max_rationale_tokens=8, max_label_tokens=4)
    student = load_student(base, spec, hyper, seed=0)
    task = TaskSpec(answer=AnswerKind.CHOICE)
    asked = Question(id="q", text=f"music {LONG}?", choices=("animal", "fruit"))
    (ids,) = student.tokenize_prompts([EXPLAIN_PREFIX + format_question(task, asked)])
    (whole,) = student.tokenizer([student.frame_prompt(EXPLAIN_PREFIX + asked.text)]).input_ids
    assert len(ids) == 24 < len(whole)
    read = student.tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "")
    assert "explain:" in read
    assert read.split("explain:")[1].startswith(("what", "is", "a", "trout", "?"))  # no `music`
    assert "animal" in read
    assert "fruit" in read
    assert ids[-1] == whole[-1]
    (short,) = student.tokenize_prompts([EXPLAIN_PREFIX + "what is a trout ?"])
    assert short == student.tokenizer(student.frame_prompt("explain: what is a trout ?")).input_ids


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_control_tokens_in_texts_are_texts(kind: str, tmp_path: Path) -> None:
    student = load_student(
        tiny.save_base(tmp_path / kind, kind), StudentSpec(), Hyperparameters(), seed=0
    )
    ids = student.tokenize_target(Target("it is </s> a tool <pad>"))
    assert ids.count(1) == 1
    assert ids[-1] == 1
    assert 0 not in ids


def test_a_unigram_tokenizer_finds_none_either() -> None:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    letters = [(letter, -5.0) for letter in "</>sa"]
    backend = Tokenizer(models.Unigram([*pieces, *letters], unk_id=2))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )
    splitter = ControlTokenSplitter(tokenizer.all_special_tokens)
    assert 1 in tokenizer("a </s> a").input_ids
    assert 1 not in tokenizer(splitter.split("a </s> a")).input_ids
    assert splitter.split("a < b") == "a < b"
