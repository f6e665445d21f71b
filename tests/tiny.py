"""A student and a judge small enough to train in a test: random weights, a word-level tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

WORDS = [
    "predict",
    "explain",
    "answer",
    "question",
    "what",
    "kind",
    "of",
    "thing",
    "is",
    "a",
    "an",
    "the",
    "trout",
    "apple",
    "hammer",
    "violin",
    "animal",
    "fruit",
    "tool",
    "instrument",
    "it",
    "swims",
    "grows",
    "hits",
    "plays",
    "so",
    "in",
    "water",
    "on",
    "trees",
    "nails",
    "music",
    ":",
    "?",
    ".",
]


def tokenizer() -> PreTrainedTokenizerFast:
    special = ["<pad>", "</s>", "<unk>"]
    vocabulary = {word: index for index, word in enumerate([*special, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )


def t5() -> T5ForConditionalGeneration:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(WORDS) + 3,
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
            dropout_rate=0.0,
        )
    )


def llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(WORDS) + 3,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=1,
        )
    )


def bert() -> BertModel:
    return BertModel(
        BertConfig(
            vocab_size=len(WORDS) + 3,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=128,
        )
    )


CHAT_TEMPLATE = """{% if messages[0]['role'] != 'system' %}the thing </s>{% endif %}\
{% for message in messages %}{% if message['role'] == 'user' %}question : {{ message['content'] }} \
{% else %}so : {{ message['content'] }}</s>{% endif %}{% endfor %}\
{% if add_generation_prompt %}so :{% endif %}"""
"""With a system message of its own, as some have."""


def save_base(
    folder: Path, kind: str = "bert", *, seed: int = 0, chat_template: str | None = None
) -> Path:
    """A base model's folder as a user would put it into the models folder."""
    torch.manual_seed(seed)
    made = {"bert": bert, "t5": t5, "llama": llama}[kind]()
    made.save_pretrained(folder)
    words = tokenizer()
    if kind == "bert":
        words.cls_token, words.sep_token = "<unk>", "</s>"
    words.chat_template = chat_template
    words.save_pretrained(folder)
    return folder
