"""Models of the stages: random weights in configurations of our own, and questions of words.

What a step costs depends on neither; only parity and the ladder's rehearsal look at values.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from qcrd.method.student.base import Student
from qcrd.method.student.causal import CausalStudent
from qcrd.method.student.lora import inject_adapters
from qcrd.method.student.seq2seq import Seq2SeqStudent
from qcrd.method.training.training_example import TrainingExample
from qcrd.records.rationales import Rationale
from qcrd.records.specs.training_spec import LoraSpec, StudentSpec

WORDS = (
    "predict explain answer question box holds pens two boxes hold how many do they it is so the "
    "and each of which are in a line by then red blue seven nine ten left right took gave more"
).split()
PAD, EOS, UNK = 0, 1, 2
WINDOW = 8
"""Positions that the windowed decoder sees: fewer than a question has."""

SIZES: dict[str, dict[str, Any]] = {
    "0.135B": {
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
    "1B": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
        "tie_word_embeddings": True,
    },
    "8B": {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
        "tie_word_embeddings": False,
    },
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64,
        "tie_word_embeddings": True,
    },
}  # fmt: skip
"""Decoders in the proportions of published ones of that size."""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word."""
    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS, ":", "?"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", EOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def make_tiny(kind: str, *, seed: int = 0) -> Any:
    """A model of 2 layers on the CPU, without dropout. Its heads have 16 places: FlexAttention's
    kernels take no fewer."""
    torch.manual_seed(seed)
    ids = {"pad_token_id": PAD, "bos_token_id": EOS, "eos_token_id": EOS}
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**SIZES["tiny"], max_position_embeddings=512, **ids))
    if kind == "mistral":
        shape = {**SIZES["tiny"], "sliding_window": WINDOW, "max_position_embeddings": 512}
        return MistralForCausalLM(MistralConfig(**shape, **ids))
    if kind == "t5":
        config = T5Config(
            vocab_size=64, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4,
            decoder_start_token_id=PAD, dropout_rate=0.0,
        )  # fmt: skip
        return T5ForConditionalGeneration(config)
    config = BertConfig(
        vocab_size=64, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=128, max_position_embeddings=256,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BertModel(config)


def make_tiny_student(kind: str, device: str, *, lora: bool = False, seed: int = 0) -> Student:
    model = make_tiny(kind, seed=seed)
    if lora:
        inject_adapters(model, StudentSpec(lora=LoraSpec()), seed=seed)
    limits = {"max_question_tokens": 64, "max_target_tokens": 64, "max_answer_tokens": 8}
    made = Seq2SeqStudent if kind == "t5" else CausalStudent
    return made(model.to(device), make_tokenizer(), **limits)


def make_sized_student(
    size: str, device: str, *, lora: bool, target_tokens: int, question_tokens: int
) -> CausalStudent:
    """A decoder of `SIZES` made where it is trained; one with adapters has its base in bf16."""
    config = LlamaConfig(
        **SIZES[size], max_position_embeddings=8192,
        pad_token_id=PAD, bos_token_id=EOS, eos_token_id=EOS,
    )  # fmt: skip
    torch.manual_seed(0)
    dtype = torch.bfloat16 if lora else torch.float32
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    if lora:
        inject_adapters(model, StudentSpec(lora=LoraSpec()), seed=0)
    student = CausalStudent(
        model.to(device),
        make_tokenizer(),
        max_question_tokens=question_tokens,
        max_target_tokens=target_tokens,
        max_answer_tokens=8,
    )
    student.bf16 = device != "cpu"
    return student


def save_base(folder: Path, kind: str) -> Path:
    """A tiny model as a checkpoint's folder."""
    tokenizer = make_tokenizer()
    if kind == "bert":
        tokenizer.cls_token, tokenizer.sep_token = "<unk>", "</s>"
    make_tiny(kind).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_examples(
    n: int,
    *,
    question_words: int = 20,
    rationale_words: int = 16,
    positives: int = 3,
    negatives: int = 1,
    even: bool = False,
    seed: int = 0,
) -> list[TrainingExample]:
    """Questions with rationales of up to that many words, or with just as many where `even`."""
    rng = random.Random(seed)

    def say(most: int) -> str:
        return " ".join(rng.choices(WORDS, k=most if even else rng.randint(most // 2, most)))

    def make(key: str) -> TrainingExample:
        rationales = tuple(
            Rationale(id=f"{key}/{i}", question_id=key, text=say(rationale_words))
            for i in range(positives + negatives)
        )
        label = rng.choice(WORDS)
        return TrainingExample(
            key, say(question_words), label, label, rationales[:positives], rationales[positives:]
        )

    return [make(str(number)) for number in range(n)]
