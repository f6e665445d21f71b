"""What the step benchmark measures on: the shipped student or a T5, and questions of random words.

What a step costs does not depend on the weights' values, and on words only by their number.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

from qcrd.cli.stack.home import install_base_model
from qcrd.method.student.loading import load_student
from qcrd.method.student.seq2seq import Seq2SeqStudent
from qcrd.method.training.step_loss import TrainingExample
from qcrd.records.rationales import Rationale
from qcrd.records.spec import Hyperparameters, StudentSpec

BATCH, POSITIVES, SEED = 8, 5, 0
WORDS = (
    "the apple is red and two girls have seven more books than five boys so she had ten minus "
    "three plus four which makes the total number of pages that were read on Monday by all"
).split()


@dataclass(frozen=True)
class Setting:
    student: Seq2SeqStudent
    batches: list[list[TrainingExample]]
    scores: dict[str, float]


def setting(models: Path, batches: int, kind: str) -> Setting:
    student = STUDENTS[kind](models)
    rng = random.Random(SEED)
    made = [[lesson(f"{b}-{i}", rng) for i in range(BATCH)] for b in range(batches)]
    every = [r for batch in made for item in batch for r in (*item.positives, *item.negatives)]
    return Setting(student, made, {r.id: rng.uniform(0.1, 0.9) for r in every})


def minilm(models: Path) -> Seq2SeqStudent:
    """The shipped one: a pretrained encoder with a new decoder of two layers."""
    install_base_model(models)
    hyper = Hyperparameters(max_question_tokens=256, max_rationale_tokens=256)
    made = load_student(models / "all-MiniLM-L6-v2", StudentSpec(), hyper, seed=SEED)
    assert isinstance(made, Seq2SeqStudent)
    return made


def t5(models: Path) -> Seq2SeqStudent:
    """Of T5-small's size: six layers each way, random weights."""
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


STUDENTS = {"minilm": minilm, "t5": t5}


def lesson(key: str, rng: random.Random) -> TrainingExample:
    def words(low: int, high: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(low, high)))

    said = [
        Rationale(id=f"{key}/{i}", question_id=key, text=words(25, 60))
        for i in range(POSITIVES + 1)
    ]
    return TrainingExample(
        key, words(30, 50), "( 84.0 / 2.0 )", "42", tuple(said[:-1]), (said[-1],)
    )
