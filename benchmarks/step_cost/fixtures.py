"""Inputs of the step benchmark: one of four students, and questions of random words.

The cost of a step depends neither on the weights' values nor on the words, only on lengths.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from qcrd.cli.stack.home import install_base_model
from qcrd.method.student.base import Student
from qcrd.method.student.causal import CausalStudent
from qcrd.method.student.loading import load_student
from qcrd.method.student.seq2seq import Seq2SeqStudent
from qcrd.method.training.training_example import TrainingExample
from qcrd.records.rationales import Rationale
from qcrd.records.specs.training_spec import Hyperparameters, LoraSpec, StudentSpec

BATCH, POSITIVES, SEED = 8, 5, 0
WORDS = (
    "the apple is red and two girls have seven more books than five boys so she had ten minus "
    "three plus four which makes the total number of pages that were read on Monday by all"
).split()


@dataclass(frozen=True)
class StepFixture:
    student: Student
    batches: list[list[TrainingExample]]
    scores: dict[str, float]


def make_fixture(models: Path, batches: int, kind: str) -> StepFixture:
    student = STUDENTS[kind](models)
    rng = random.Random(SEED)
    all_batches = [[make_example(f"{b}-{i}", rng) for i in range(BATCH)] for b in range(batches)]
    rationales = [
        r for batch in all_batches for item in batch for r in (*item.positives, *item.negatives)
    ]
    return StepFixture(student, all_batches, {r.id: rng.uniform(0.1, 0.9) for r in rationales})


def load_smollm2(models: Path) -> CausalStudent:
    """The demo's student, which `qcrd models unpack smollm2` puts there: 135 M parameters, adapters
    on its upper two thirds."""
    spec = StudentSpec(lora=LoraSpec(rank=16), lora_upper_share=0.667)
    hyper = Hyperparameters(max_question_tokens=256, max_rationale_tokens=256)
    student = load_student(models / "SmolLM2-135M-Instruct", spec, hyper, seed=SEED)
    assert isinstance(student, CausalStudent)
    return student


def load_minilm(models: Path) -> Seq2SeqStudent:
    """A pretrained encoder with a new decoder of two layers."""
    install_base_model(models)
    hyper = Hyperparameters(max_question_tokens=256, max_rationale_tokens=256)
    student = load_student(models / "all-MiniLM-L6-v2", StudentSpec(), hyper, seed=SEED)
    assert isinstance(student, Seq2SeqStudent)
    return student


def make_t5(models: Path) -> Seq2SeqStudent:
    """A T5 of T5-small's size, six layers each way, with random weights."""
    install_base_model(models)
    tokenizer = AutoTokenizer.from_pretrained(models / "all-MiniLM-L6-v2")
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    torch.manual_seed(SEED)
    config = T5Config(
        vocab_size=32128, d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_heads=8,
        decoder_start_token_id=0, eos_token_id=tokenizer.sep_token_id, dropout_rate=0.1,
    )  # fmt: skip
    return Seq2SeqStudent(
        T5ForConditionalGeneration(config),
        tokenizer,
        max_question_tokens=256,
        max_target_tokens=256,
    )


def make_llama(models: Path) -> CausalStudent:
    """A decoder-only student of MiniLM's width, eight layers, with random weights."""
    install_base_model(models)
    tokenizer = AutoTokenizer.from_pretrained(models / "all-MiniLM-L6-v2")
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.eos_token = tokenizer.sep_token
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=384, intermediate_size=1024, num_hidden_layers=8,
        num_attention_heads=6, num_key_value_heads=2, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.sep_token_id,
    )  # fmt: skip
    return CausalStudent(
        LlamaForCausalLM(config), tokenizer, max_question_tokens=256, max_target_tokens=256
    )


STUDENTS = {"minilm": load_minilm, "t5": make_t5, "llama": make_llama, "smollm2": load_smollm2}


def make_example(key: str, rng: random.Random) -> TrainingExample:
    def random_text(low: int, high: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(low, high)))

    rationales = [
        Rationale(id=f"{key}/{i}", question_id=key, text=random_text(25, 60))
        for i in range(POSITIVES + 1)
    ]
    return TrainingExample(
        key, random_text(30, 50), "( 84.0 / 2.0 )", "42", tuple(rationales[:-1]), (rationales[-1],)
    )
