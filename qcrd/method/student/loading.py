"""Loads a base checkpoint as a student or as the judge's encoder.

An encoder-only base (BERT, MiniLM) becomes an `EncoderDecoderModel`: a standard architecture of
transformers, so the finished student loads anywhere without this project's code.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    EncoderDecoderModel,
    GenerationConfig,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from qcrd.errors import Invalid
from qcrd.method.compute import has_bf16
from qcrd.method.student import length_limits
from qcrd.method.student.base import Student, Weights
from qcrd.method.student.causal import CausalStudent
from qcrd.method.student.chat_form import ChatForm, read_chat_form
from qcrd.method.student.lora import inject_adapters
from qcrd.method.student.packing import has_attention_alone
from qcrd.method.student.seq2seq import Seq2SeqStudent
from qcrd.records.specs.training_spec import Hyperparameters, StudentSpec
from qcrd.records.student_families import (
    Reading,
    find_inexact_setting,
    load_student_families,
)


def load_student(
    folder: Path, spec: StudentSpec, hyper: Hyperparameters, *, seed: int, device: str = "cpu"
) -> Student:
    """The student of iteration 0. New weights (an added decoder) are a function of `seed`."""
    bf16 = hyper.precision == "bf16" or (
        hyper.precision == "auto" and device != "cpu" and has_bf16(torch.device(device))
    )
    # What adapters leave frozen needs no more digits than it is computed with.
    dtype = torch.bfloat16 if bf16 and spec.lora is not None else torch.float32
    student = _build_student(folder, spec, hyper, seed=seed, device=device, dtype=dtype)
    student.bf16 = bf16
    if spec.gradient_checkpointing:
        _checkpoint_gradients(student.model)
    return student


def _checkpoint_gradients(model: Any) -> None:
    if not model.supports_gradient_checkpointing:
        raise Invalid(
            f"`student.gradient_checkpointing`: models of type {model.config.model_type!r} do not "
            "support it; leave it out and lower `hyperparameters.batch_size`",
            param="student.gradient_checkpointing",
        )
    # The name that transformers 5.17 has; later ones call it activation checkpointing.
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def load_matching_weights(student: Student, checkpoint: Path) -> Weights:
    """The weights in `checkpoint`, by the names of `student`'s trained parameters.

    `Invalid` when that is another architecture, or the student has adapters that it lacks.
    """
    hyper = Hyperparameters()
    checkpoint_weights = load_student(checkpoint, StudentSpec(), hyper, seed=0).model.state_dict()
    trainable_parameters = {n: p for n, p in student.model.named_parameters() if p.requires_grad}
    mismatched = [
        n
        for n, p in trainable_parameters.items()
        if n not in checkpoint_weights or checkpoint_weights[n].shape != p.shape
    ]
    if mismatched:
        raise Invalid(
            f"`negatives.checkpoint`: {checkpoint.name!r} has no {mismatched[0]!r} of the "
            "student's "
            "shape; name a model that was trained from the same base, without `lora`",
            param="negatives.checkpoint",
            code="other_architecture",
        )
    return {name: checkpoint_weights[name] for name in trainable_parameters}


def _build_student(
    folder: Path,
    spec: StudentSpec,
    hyper: Hyperparameters,
    *,
    seed: int,
    device: str,
    dtype: torch.dtype,
) -> Student:
    limits = {
        "max_question_tokens": hyper.max_question_tokens,
        "max_target_tokens": hyper.max_rationale_tokens,
        "max_answer_tokens": hyper.max_label_tokens,
    }
    config = _load_config(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if spec.prompt == "chat" and (config.is_encoder_decoder or _is_encoder_only(config)):
        raise Invalid(
            "`student.prompt`: only decoder-only bases have a chat to be asked in; leave it out",
            param="student.prompt",
            code="no_chat_form",
        )
    if config.is_encoder_decoder:
        choose_reading(config)
        model: Any = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=dtype)
        inject_adapters(model, spec, seed=seed)
        limits = length_limits.fit_encoder_decoder(config, limits)
        return Seq2SeqStudent(model.to(device), tokenizer, **limits)
    if _is_encoder_only(config):
        if spec.lora is not None:
            raise Invalid(
                "`student.lora`: an encoder-only base gets a new decoder, to be trained whole; "
                "leave `lora` out or take a seq2seq or decoder-only base",
                param="student.lora",
            )
        limits = length_limits.fit_encoder_decoder(config, limits)
        model = build_encoder_decoder(folder, tokenizer, spec, seed=seed)
        return Seq2SeqStudent(model.to(device), tokenizer, **limits)
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        reading = choose_reading(config)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        inject_adapters(model, spec, seed=seed)
        return CausalStudent(
            model.to(device),
            tokenizer,
            packed=reading == "packed",
            chat=_choose_chat(tokenizer, spec),
            **length_limits.fit_window(config, limits),
        )
    raise Invalid(
        f"`model`: architecture {config.model_type!r} has no language-model head to train; "
        "use a seq2seq, decoder-only or BERT-like base",
        param="model",
    )


def _choose_chat(tokenizer: PreTrainedTokenizerBase, spec: StudentSpec) -> ChatForm | None:
    """How a decoder-only base is asked; None: as plain text."""
    if spec.prompt == "plain":
        return None
    try:
        return read_chat_form(tokenizer)
    except Invalid:
        if spec.prompt == "chat":
            raise
        return None


def choose_reading(config: Any) -> Reading:
    """How a model of this `config` is read exactly; `Invalid` names one that was not found to be.

    A type that is read packed has members with layers that carry a state; those are read by pairs.
    """
    families = load_student_families()
    reading = families.find_reading(config.model_type)
    if reading is None:
        reason = families.refused.get(config.model_type, "it was not tried with this release")
        raise Invalid(
            f"`model`: students of type {config.model_type!r} are not trained, because their loss "
            f"was not found to be exact ({reason}); docs/students.md says which are",
            param="model",
            code="inexact_student",
        )
    if (setting := find_inexact_setting(config.to_dict())) is not None:
        raise Invalid(
            f"`model`: type {config.model_type!r} with {setting}; students with that setting are "
            "not trained, because their loss is not exact; take another base",
            param="model",
            code="inexact_student",
        )
    if reading == "packed" and not has_attention_alone(config):
        return "pairs"
    return reading


def build_encoder_decoder(
    folder: Path, tokenizer: PreTrainedTokenizerBase, spec: StudentSpec, *, seed: int
) -> EncoderDecoderModel:
    """A pretrained encoder with a new decoder whose layers start as copies of the encoder's last.

    Embeddings are copied and tied to the output head; only cross-attention starts at random.
    """
    encoder: Any = AutoModel.from_pretrained(folder, dtype=torch.float32)
    depth = encoder.config.num_hidden_layers
    if spec.decoder_layers > depth:
        raise Invalid(
            f"`student.decoder_layers` is {spec.decoder_layers}, but the encoder has only "
            f"{depth} layers to copy from",
            param="student.decoder_layers",
        )
    decoder_config = copy.deepcopy(encoder.config)
    decoder_config.update(
        {
            "num_hidden_layers": spec.decoder_layers,
            "is_decoder": True,
            "add_cross_attention": True,
            "tie_word_embeddings": True,
            "bos_token_id": tokenizer.cls_token_id,
            "eos_token_id": tokenizer.sep_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoder: Any = AutoModelForCausalLM.from_config(decoder_config)
    decoder.base_model.embeddings.load_state_dict(encoder.embeddings.state_dict())
    for new, old in zip(
        decoder.base_model.encoder.layer,
        encoder.encoder.layer[depth - spec.decoder_layers :],
        strict=True,
    ):
        new.load_state_dict(old.state_dict(), strict=False)
    model: Any = EncoderDecoderModel(encoder=encoder, decoder=decoder)
    model.tie_weights()
    special_tokens = {
        "decoder_start_token_id": tokenizer.cls_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    model.config.update(special_tokens)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.cls_token_id, **special_tokens
    )
    _reset_length_limits(tokenizer, decoder_config.max_position_embeddings)
    if spec.freeze == "encoder":
        model.encoder.requires_grad_(False)
    if spec.freeze in ("encoder", "embeddings"):
        model.encoder.get_input_embeddings().requires_grad_(False)
        model.get_decoder().get_input_embeddings().requires_grad_(False)
    encoder_decoder: EncoderDecoderModel = model
    return encoder_decoder


def load_encoder(folder: Path) -> tuple[Any, PreTrainedTokenizerBase]:
    """The judge's encoder: the base itself, or the encoder half of a seq2seq base."""
    config = _load_config(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not config.is_encoder_decoder and not _is_encoder_only(config):
        raise Invalid(
            f"`discriminator.encoder`: {config.model_type!r} is a decoder-only architecture; "
            "name a T5-like, BERT-like or ModernBERT-like base",
            param="discriminator.encoder",
        )
    model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32)
    if _is_encoder_only(config):
        _reset_length_limits(tokenizer, config.max_position_embeddings)
        return model, tokenizer
    return model.get_encoder(), tokenizer


def _load_config(folder: Path) -> Any:
    if not (folder / "config.json").is_file():
        raise Invalid(f"`model`: no config.json in {folder.name!r}", param="model")
    return AutoConfig.from_pretrained(folder)


def _is_encoder_only(config: Any) -> bool:
    architectures = config.architectures or [""]
    has_causal_head = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures)
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not has_causal_head


def _reset_length_limits(tokenizer: PreTrainedTokenizerBase, max_positions: int) -> None:
    """Undo the fixed padding and truncation that sentence-embedding checkpoints carry."""
    backend: Any = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    tokenizer.model_max_length = max_positions
