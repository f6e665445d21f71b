"""Refuses base models that cannot be a student, by their config.json alone.

The gateway has no torch to load them. Only architectures without a language-model head in any
version are listed; the trainer decides about others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qcrd.errors import Invalid
from qcrd.records.student_families import find_inexact_setting, load_student_families

VISION_MODEL_TYPES = """
beit bit clip clip_vision_model convnext convnextv2 cvt data2vec-vision deit detr dinov2
dinov2_with_registers dinov3_vit dpt efficientnet focalnet hiera levit mask2former maskformer
mobilenet_v1 mobilenet_v2 mobilevit mobilevitv2 owlvit poolformer pvt regnet resnet rt_detr sam sam2
segformer siglip siglip2 siglip_vision_model swin swinv2 table-transformer timesformer videomae vit
vit_mae vit_msn vivit yolos
""".split()
AUDIO_MODEL_TYPES = """
audio-spectrogram-transformer clap data2vec-audio encodec hubert moonshine sew sew-d speech_to_text
speecht5 unispeech unispeech-sat vits wav2vec2 wav2vec2-bert wav2vec2-conformer wavlm whisper
""".split()
ENCODER_MODEL_TYPES = "canine dpr layoutlmv2 layoutlmv3 lilt markuplm splinter".split()
TIME_SERIES_MODEL_TYPES = "autoformer informer patchtst time_series_transformer".split()

UNSUPPORTED_MODEL_TYPES: Mapping[str, str] = {
    **dict.fromkeys(VISION_MODEL_TYPES, "reads images"),
    **dict.fromkeys(AUDIO_MODEL_TYPES, "reads or makes sound"),
    **dict.fromkeys(ENCODER_MODEL_TYPES, "only classifies or embeds text"),
    **dict.fromkeys(TIME_SERIES_MODEL_TYPES, "reads series of numbers"),
}
"""`model_type` of transformers -> what it does instead of generating text."""


def check_language_model_head(name: str, config: Mapping[str, Any], param: str) -> None:
    """`Invalid` when a model of this `config` (its config.json, or {}) cannot generate text, or
    cannot be trained exactly."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        return
    if (reason := load_student_families().refused.get(model_type)) is not None:
        raise Invalid(
            f"`{param}`: {name!r} is a {model_type} model; students of that type are not trained, "
            f"because their loss was not found to be exact ({reason})",
            param=param,
            code="inexact_student",
        )
    if (setting := find_inexact_setting(config)) is not None:
        raise Invalid(
            f"`{param}`: {name!r} is a {model_type} model with {setting}; students with that "
            "setting are not trained, because their loss is not exact; take another base",
            param=param,
            code="inexact_student",
        )
    if model_type not in UNSUPPORTED_MODEL_TYPES:
        return
    architectures = config.get("architectures")
    architecture = (
        f" ({architectures[0]})" if isinstance(architectures, list) and architectures else ""
    )
    raise Invalid(
        f"`{param}`: {name!r} is a {model_type} model{architecture}, which "
        f"{UNSUPPORTED_MODEL_TYPES[model_type]} and has no "
        "language-model head to train; take a seq2seq, decoder-only or BERT-like base",
        param=param,
        code="no_language_model_head",
    )
