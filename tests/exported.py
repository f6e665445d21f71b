"""Students small enough to export in a test, with vocabularies that other runtimes read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from qcrd.records.students.prompt_format import PROMPT_FORMAT_FILE, PromptFormat
from services.trainer.results.chat_template import render_chat_template

TEXTS = [
    "user explain: What kind of thing is a hammer? A hammer is a tool that hits nails.",
    "answer: tool answer: animal answer: fruit It's what we'll say; don't they've 1250 apples",
    "Is a trout an animal? A trout is an animal that swims in water. An apple is a fruit.",
]
BEGIN, END = "<|im_start|>", "<|im_end|>"
REASONS = {
    "hammer": "A hammer is a tool that hits nails.\nanswer: tool",
    "trout": "A trout is an animal that swims.\nanswer: animal",
    "apple": "An apple is a fruit that grows.\nanswer: fruit",
    "saw": "A saw is a tool that cuts.\nanswer: tool",
}
LABELS = ("animal", "fruit", "tool")
FORMAT = PromptFormat.model_validate(
    {
        "predict": f"{BEGIN}user\nexplain: ",
        "suffix": f"{END}\n{BEGIN}assistant\n",
        "max_label_tokens": 8,
        "max_rationale_tokens": 24,
        "answer": "label",
        "labels": LABELS,
        "joined": True,
        "control_tokens": (BEGIN, END),
    }
)
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3 splits a text; Qwen splits numbers into their digits."""


def byte_tokenizer(kind: str = "smollm", **added: bool) -> PreTrainedTokenizerFast:
    """A byte-level vocabulary whose texts are split as those of `kind`; `added` are properties of
    one more token, `apples`."""
    backend = Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
    if kind in ("llama3", "qwen"):
        pattern = WORDS if kind == "llama3" else WORDS.replace("{1,3}", "")
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    else:
        digits = [pre_tokenizers.Digits(individual_digits=True)] * (kind == "smollm")
        bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([*digits, bytes_])
    if kind == "qwen":
        backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=340,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<pad>", BEGIN, END],
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    if added:
        backend.add_tokens([AddedToken("apples", normalized=False, **added)])
    return _wrap(backend)


def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """As Llama 2 and TinyLlama have it: characters, merges, and bytes for what is unknown."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    bytes_ = [f"<0x{value:02X}>" for value in range(256)]
    trainer = BpeTrainer(
        vocab_size=440,
        special_tokens=["<unk>", BEGIN, END, *bytes_],
        show_progress=False,
        max_token_length=12,
    )
    backend.train_from_iterator(TEXTS, trainer)
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return _wrap(backend)


def _wrap(backend: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=BEGIN, eos_token=END, pad_token=END
    )


SHAPE: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "initializer_range": 0.05,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CONFIGS: Mapping[str, tuple[type[PreTrainedConfig], dict[str, Any], str]] = {
    "llama": (LlamaConfig, {"tie_word_embeddings": True}, "smollm"),
    "llama3": (LlamaConfig, {"rope_parameters": LLAMA3_ROPE}, "llama3"),
    "qwen2": (Qwen2Config, {"tie_word_embeddings": True}, "qwen"),
    "qwen3": (Qwen3Config, {"head_dim": 32}, "qwen"),
    "smollm3": (SmolLM3Config, {"num_hidden_layers": 4}, "gpt2"),
}
"""Config, what it has of its own, and how its tokenizer splits texts."""


def save_student(
    folder: Path,
    kind: str = "llama",
    *,
    tokenizer: PreTrainedTokenizerFast | None = None,
    prompt_format: PromptFormat = FORMAT,
    **settings: Any,
) -> Path:
    """A student's folder, with random weights."""
    config_class, own, words = CONFIGS[kind]
    tokenizer = tokenizer or byte_tokenizer(words)
    torch.manual_seed(0)
    # A few rows more than tokens, as Qwen has them.
    size = len(tokenizer) + 5
    config = config_class(**{**SHAPE, **own, "vocab_size": size, **settings})
    model: Any = AutoModelForCausalLM.from_config(config)
    for name, parameter in model.named_parameters():
        if name.endswith(
            ("bias", "norm.weight")
        ):  # which begin as 0 and 1: nothing would miss them
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.save_pretrained(folder)
    tokenizer.chat_template = render_chat_template(prompt_format)
    tokenizer.save_pretrained(folder)
    (folder / PROMPT_FORMAT_FILE).write_text(prompt_format.model_dump_json())
    return folder


def question(thing: str) -> str:
    return f"What kind of thing is a {thing}?"


def teach(folder: Path, steps: int = 150) -> Path:
    """Have the student of `folder` learn `REASONS` by heart."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder)
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.05)
    rows = []
    for thing, said in REASONS.items():
        prompt = FORMAT.format_prompt(FORMAT.predict, question(thing))
        asked, whole = (tokenizer(text).input_ids for text in (prompt, f"{prompt}{said}{END}"))
        rows.append((whole, [-100] * len(asked) + whole[len(asked) :]))
    width = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [2] * (width - len(ids)) for ids, _ in rows])
    labels = torch.tensor([told + [-100] * (width - len(told)) for _, told in rows])
    learner = torch.optim.AdamW(model.parameters(), lr=3e-3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(steps):
        learner.zero_grad()
        model(input_ids=ids, labels=labels).loss.backward()
        learner.step()
    torch.set_num_threads(threads)
    model.save_pretrained(folder)
    return folder
