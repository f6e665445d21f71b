"""Which base models surely cannot be a student, told from their config.json alone.

The gateway has no torch to try it with. So only architectures that have no language-model head in
any version are listed; of what is not listed the trainer says whether it can be trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qcrd.errors import Invalid

VISION = """
beit bit clip clip_vision_model convnext convnextv2 cvt data2vec-vision deit detr dinov2
dinov2_with_registers dinov3_vit dpt efficientnet focalnet hiera levit mask2former maskformer
mobilenet_v1 mobilenet_v2 mobilevit mobilevitv2 owlvit poolformer pvt regnet resnet rt_detr sam sam2
segformer siglip siglip2 siglip_vision_model swin swinv2 table-transformer timesformer videomae vit
vit_mae vit_msn vivit yolos
""".split()
AUDIO = """
audio-spectrogram-transformer clap data2vec-audio encodec hubert moonshine sew sew-d speech_to_text
speecht5 unispeech unispeech-sat vits wav2vec2 wav2vec2-bert wav2vec2-conformer wavlm whisper
""".split()
CLASSIFIERS = "canine dpr layoutlmv2 layoutlmv3 lilt markuplm splinter".split()
SERIES = "autoformer informer patchtst time_series_transformer".split()

WITHOUT_HEAD: Mapping[str, str] = {
    **dict.fromkeys(VISION, "reads images"),
    **dict.fromkeys(AUDIO, "reads or makes sound"),
    **dict.fromkeys(CLASSIFIERS, "only classifies or embeds text"),
    **dict.fromkeys(SERIES, "reads series of numbers"),
}
"""`model_type` of transformers -> what it does instead of writing text."""


def check_head(name: str, config: Mapping[str, Any], param: str) -> None:
    """`Invalid` when a model of this `config` (its config.json, or {}) cannot learn to write."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in WITHOUT_HEAD:
        return
    named = config.get("architectures")
    shown = f" ({named[0]})" if isinstance(named, list) and named else ""
    raise Invalid(
        f"`{param}`: {name!r} is a {kind} model{shown}, which {WITHOUT_HEAD[kind]} and has no "
        "language-model head to train; take a seq2seq, decoder-only or BERT-like base",
        param=param,
        code="no_language_model_head",
    )
