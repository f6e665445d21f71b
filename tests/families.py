"""A tiny model of every type that transformers knows as a language model, by one generic recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from qcrd.method.student.base import Student
from qcrd.method.student.causal import CausalStudent
from qcrd.method.student.packing import has_attention_alone
from qcrd.method.student.seq2seq import Seq2SeqStudent
from qcrd.method.student.targets import Target
from tests import tiny

VOCABULARY = len(tiny.WORDS) + 3
PARTS = ("text_config", "decoder", "encoder", "vision_config", "audio_config")
MAX_PARAMETERS = 8_000_000

SMALL = {
    **dict.fromkeys(
        (
            "vocab_size", "decoder_vocab_size", "src_vocab_size", "tgt_vocab_size",
            "vocab_size_per_layer_input",
        ),
        VOCABULARY,
    ),
    **dict.fromkeys(
        ("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "embedding_size", "dim",
            "cross_attention_hidden_size"), 32
    ),
    **dict.fromkeys(
        (
            "intermediate_size", "ffn_dim", "d_ff", "n_inner", "ffn_hidden_size",
            "encoder_ffn_dim", "decoder_ffn_dim", "dense_intermediate_size",
        ),
        64,
    ),
    **dict.fromkeys(
        (
            "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers",
            "decoder_layers", "num_decoder_layers", "num_encoder_layers",
        ),
        2,
    ),
    **dict.fromkeys(
        (
            "num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads",
            "decoder_attention_heads", "num_encoder_attention_heads",
            "num_decoder_attention_heads", "mamba_n_heads", "linear_num_heads",
        ),
        4,
    ),
    **dict.fromkeys(("head_dim", "d_kv", "rotary_dim", "mamba_d_state", "state_size"), 8),
    "linear_head_dim": 8,
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "moe_intermediate_size"), 16),
    **dict.fromkeys(("shared_expert_intermediate_size", "mamba_d_head"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok"), 2),
    **dict.fromkeys(("n_shared_experts", "n_group", "topk_group", "n_groups"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 128),
    **dict.fromkeys(
        (
            "sliding_window", "sliding_window_size", "window_size", "attention_window_size",
            "keep_window_size", "attention_chunk_size", "local_attention", "index_topk",
        ),
        6,
    ),
    **dict.fromkeys(("index_topk_blocks", "index_local_blocks"), 1),
    "index_block_size": 2,
    "time_step_rank": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}  # fmt: skip
"""What makes a config small, wherever it has such a setting. Whatever bounds how far a layer sees
is 6, which is shorter than every prompt of the tests."""

OWN: Mapping[str, Mapping[str, Any]] = {
    **{name: {"head_dim": 8} for name in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral")},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
    "mamba2": {"head_dim": 16},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "falcon_h1": {"mamba_d_ssm": 64},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
}
"""Settings that one type needs beside those."""


def is_encoder(model_type: str) -> bool:
    """Whether it is read as an encoder, around which a decoder is built."""
    return model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES


CAUSAL = [t for t in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if not is_encoder(t)]
SEQ2SEQ = list(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES)


def build(model_type: str) -> Any:
    """A model of that type with random weights. Any error says why the recipe does not make one."""
    config = shrink(CONFIG_MAPPING[model_type]())
    for name, value in OWN.get(model_type, {}).items():
        setattr(config, name, value)
    made = AutoModelForSeq2SeqLM if model_type in SEQ2SEQ else AutoModelForCausalLM
    with torch.device("meta"):
        size = sum(p.numel() for p in made.from_config(config).parameters())
    if size > MAX_PARAMETERS:
        raise ValueError(f"{size / 1e6:.0f} million parameters stay when its text part is tiny")
    torch.manual_seed(0)
    model = sharpen(made.from_config(config).float().eval())
    if model.generation_config.decoder_start_token_id is None and model_type in SEQ2SEQ:
        model.generation_config.decoder_start_token_id = 0
    return model


def sharpen(model: Any) -> Any:
    """Larger weights: with those that a new model has, attention hardly tells places apart."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    return model


def shrink(config: Any) -> Any:
    for name, value in SMALL.items():
        if get_quietly(config, name) is not None or name.endswith("_token_id"):
            set_quietly(config, name, value)
    if get_quietly(config, "kv_lora_rank"):
        set_quietly(config, "num_key_value_heads", SMALL["num_attention_heads"])
    if kinds := list(dict.fromkeys(get_quietly(config, "layer_types") or ())):
        set_quietly(config, "layer_types", (kinds * 2)[:2])
    for name in PARTS:
        if hasattr(part := get_quietly(config, name), "to_dict"):
            shrink(part)
    return config


def get_quietly(config: Any, name: str) -> Any:
    """Some settings have a value per layer and refuse to be read as one."""
    try:
        return getattr(config, name, None)
    except Exception:
        return None


def set_quietly(config: Any, name: str, value: Any) -> None:
    """Some settings are computed from others and cannot be set."""
    try:
        setattr(config, name, value)
    except Exception:
        return


# --- what a student's losses have to equal --------------------------------------------------------

PROMPTS = [
    "explain: what is a trout ? it swims in water",
    "explain: what kind of thing is the violin ? it plays music so it is",
]
TARGETS = ["it swims in water .", "animal", "so it plays music in water on trees .", "a"]
PROMPT_INDEX = [0, 0, 1, 1]
TOLERANCE = 1e-3
"""Of a loss in nats, and of a gradient relative to its norm; fp32 leaves about 1e-6."""


def make_student(model: Any, way: str) -> Student:
    limits = {"max_question_tokens": 32, "max_target_tokens": 16}
    if way == "seq2seq":
        return Seq2SeqStudent(model, tiny.tokenizer(), **limits)
    return CausalStudent(model, tiny.tokenizer(), packed=way == "packed", **limits)


def find_difference(student: Student) -> str:
    """What sets the student's losses, or their gradient, apart from those of the model asked with
    one plain sequence per pair; nothing where they agree."""
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    plain = torch.stack(
        [
            plain_loss(student, PROMPTS[row], target)
            for row, target in zip(PROMPT_INDEX, TARGETS, strict=True)
        ]
    )
    expected = _gradient(student, (plain * weights).sum())
    total = _losses(student)
    found = _gradient(student, (total * weights).sum())
    off = float((total - plain).detach().abs().max())
    gradient_off = float((found - expected).norm() / expected.norm())
    if not off <= TOLERANCE:
        return "the loss is another than that of one sequence per pair"
    if not gradient_off <= TOLERANCE:
        return "the gradient is another than that of one sequence per pair"
    return ""


@torch.no_grad()
def losses_without_gradient(student: Student) -> Tensor:
    return _losses(student)


def _losses(student: Student) -> Tensor:
    total, _ = student.cross_entropy(PROMPTS, PROMPT_INDEX, [Target(text) for text in TARGETS])
    return total


def plain_loss(student: Student, prompt: str, text: str) -> Tensor:
    """The model's own summed cross entropy, with nothing shared and nothing padded."""
    asked = student.tokenize_prompts([prompt])[0]
    said = student.tokenize_target(Target(text))
    if isinstance(student, Seq2SeqStudent):
        start = student.model.generation_config.decoder_start_token_id
        logits = student.model(
            input_ids=torch.tensor([asked]),
            attention_mask=torch.ones(1, len(asked), dtype=torch.long),
            decoder_input_ids=torch.tensor([[start, *said[:-1]]]),
            use_cache=False,
        ).logits[0]
    else:
        output = student.model(input_ids=torch.tensor([asked + said]), use_cache=False)
        logits = output.logits[0, len(asked) - 1 : -1]
    return F.cross_entropy(logits.float(), torch.tensor(said), reduction="sum")


def _gradient(student: Student, loss: Tensor) -> Tensor:
    student.model.zero_grad(set_to_none=True)
    loss.backward()
    return torch.cat(
        [
            (torch.zeros_like(p) if p.grad is None else p.grad).flatten()
            for p in student.model.parameters()
            if p.requires_grad
        ]
    )


# --- the table ------------------------------------------------------------------------------------


def find_way(model_type: str) -> tuple[str, str]:
    """How a type's students are read, the cheapest exact way first, and the reason where there is
    none."""
    try:
        model = build(model_type)
    except Exception as error:
        return "refused", f"no tiny model of it can be made: {_first_line(error)}"
    reason = ""
    causal_ways = ("packed", "pairs") if has_attention_alone(model.config) else ("pairs",)
    for way in ("seq2seq",) if model_type in SEQ2SEQ else causal_ways:
        try:
            reason = find_difference(make_student(model, way))
        except Exception as error:
            reason = _first_line(error)
        if not reason:
            return way, ""
    return "refused", reason


def _first_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:80]}" if text else type(error).__name__


def make_table() -> dict[str, Any]:
    """The table of `qcrd.records.student_families`, measured anew."""
    torch.set_num_threads(1)  # for models so small, more of them only wait for each other
    table: dict[str, Any] = {"packed": [], "pairs": [], "seq2seq": [], "refused": {}}
    for model_type in sorted({*CAUSAL, *SEQ2SEQ}):
        way, reason = find_way(model_type)
        if way == "refused":
            table["refused"][model_type] = reason
        else:
            table[way].append(model_type)
    return table


if __name__ == "__main__":
    print(json.dumps(make_table(), indent=1))
