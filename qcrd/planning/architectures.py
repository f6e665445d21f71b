"""Parameters of a model, counted from its config.json without loading anything.

Counted are the types listed in `FAMILIES`; any other is refused by name. The tests compare each
with the model that transformers builds of the same config.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from qcrd.errors import Invalid
from qcrd.records.base_models import ENCODER_MODEL_TYPES

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Linear:
    """`count` matrices of one shape, each with a bias or without."""

    inputs: int
    outputs: int
    count: int = 1
    bias: bool = False

    @property
    def parameters(self) -> int:
        return self.count * (self.inputs + self.bias) * self.outputs


@dataclass(frozen=True)
class Architecture:
    """What a model consists of. `linears`: the matrices of its layers, the head aside, which is
    `vocabulary` × `hidden` and, where it is tied, no parameters of its own; `embeddings`: word
    embeddings; `others`: norms, positions and what else there is."""

    model_type: str
    vocabulary: int
    hidden: int
    layers: int
    linears: tuple[Linear, ...]
    embeddings: int
    head: int
    others: int

    @property
    def linear_parameters(self) -> int:
        return sum(linear.parameters for linear in self.linears)

    @property
    def parameters(self) -> int:
        return self.linear_parameters + self.embeddings + self.head + self.others

    def count_lora(self, rank: int) -> int:
        """Parameters of adapters of `rank` on every matrix but the head's."""
        return sum(rank * (x.inputs + x.outputs) * x.count for x in self.linears)


def count_architecture(config: Config, *, decoder_layers: int = 2) -> Architecture:
    """The student of a base with this config; an encoder gets a decoder of `decoder_layers`.
    `Invalid` for a type that is not counted, and for a config that lacks a size."""
    model_type = str(config.get("model_type"))
    count = FAMILIES.get(model_type)
    if count is None:
        raise Invalid(
            f"`model`: parameters of type {model_type[:80]!r} cannot be counted from a config.json "
            f"here; counted are {', '.join(sorted(FAMILIES))}",
            param="model",
            code="uncounted_model",
        )
    try:
        if model_type in ENCODER_MODEL_TYPES:
            return _add_decoder(count(config), config, decoder_layers)
        return count(config)
    except (KeyError, TypeError) as error:
        raise Invalid(
            f"`model`: its config.json lacks a usable {error}: fetch the model again", param="model"
        ) from error


def count_encoder(config: Config) -> Architecture:
    """The encoder that a judge takes of a base with this config."""
    model_type = config.get("model_type")
    if model_type in ENCODER_MODEL_TYPES and model_type in FAMILIES:
        return FAMILIES[str(model_type)](config)
    if model_type in ("t5", "mt5"):
        return _count_t5(config, decoder=False)
    raise Invalid(
        f"`discriminator.encoder`: parameters of type {str(model_type)[:80]!r} cannot be counted "
        "from a config.json here; counted are BERT-like and T5-like ones",
        param="discriminator.encoder",
        code="uncounted_model",
    )


# --- decoders like Llama's ------------------------------------------------------------------------


@dataclass(frozen=True)
class DecoderForm:
    """How a type differs from Llama, whose biases are the config's: biases of queries, keys and
    values; norms of queries and keys, `head` wide or over all heads; norms of a layer."""

    qkv_bias: bool | None = None
    biases: bool = True
    qk_norm: str | None = None
    layer_norms: int = 2
    tied: bool = False
    fused: bool = False


def _count_decoder(config: Config, form: DecoderForm) -> Architecture:
    hidden, inner, layers = (
        config[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")
    )
    heads, vocabulary = config["num_attention_heads"], config["vocab_size"]
    groups = config.get("num_key_value_heads") or heads
    head = config.get("head_dim") or hidden // heads
    bias = form.biases and bool(config.get("attention_bias", False))
    mlp_bias = form.biases and bool(config.get("mlp_bias", False))
    qkv_bias = bias if form.qkv_bias is None else form.qkv_bias
    inputs: tuple[Linear, ...] = (
        Linear(hidden, heads * head, layers, qkv_bias),
        Linear(hidden, groups * head, 2 * layers, qkv_bias),
        Linear(hidden, inner, 2 * layers, mlp_bias),
    )
    if form.fused:
        inputs = (
            Linear(hidden, (heads + 2 * groups) * head, layers),
            Linear(hidden, 2 * inner, layers),
        )
    outputs = (Linear(heads * head, hidden, layers, bias), Linear(inner, hidden, layers, mlp_bias))
    norms = form.layer_norms * hidden
    if form.qk_norm == "head":
        norms += 2 * head
    elif form.qk_norm == "all":
        norms += (heads + groups) * head
    tied = bool(config.get("tie_word_embeddings", form.tied))
    return Architecture(
        str(config["model_type"]),
        vocabulary,
        hidden,
        layers,
        (*inputs, *outputs),
        embeddings=vocabulary * hidden,
        head=0 if tied else vocabulary * hidden,
        others=layers * norms + hidden,
    )


DECODERS: Mapping[str, DecoderForm] = {
    "llama": DecoderForm(),
    "smollm3": DecoderForm(tied=True),
    "mistral": DecoderForm(biases=False),
    "qwen2": DecoderForm(qkv_bias=True, biases=False),
    "qwen3": DecoderForm(qk_norm="head"),
    "olmo2": DecoderForm(qk_norm="all"),
    "phi3": DecoderForm(biases=False, fused=True),
    "gemma": DecoderForm(tied=True),
    "gemma2": DecoderForm(tied=True, layer_norms=4),
    "gemma3_text": DecoderForm(tied=True, layer_norms=4, qk_norm="head"),
}


# --- T5 -------------------------------------------------------------------------------------------


def _count_t5(config: Config, *, decoder: bool = True) -> Architecture:
    hidden, inner, layers = config["d_model"], config["d_ff"], config["num_layers"]
    width, vocabulary = config["num_heads"] * config["d_kv"], config["vocab_size"]
    decoder_layers = (config.get("num_decoder_layers") or layers) if decoder else 0
    is_gated = str(config.get("feed_forward_proj", "relu")).startswith("gated-")
    attentions, blocks = layers + 2 * decoder_layers, layers + decoder_layers
    positions = config.get("relative_attention_num_buckets", 32) * config["num_heads"]
    is_tied = not decoder or config.get("tie_word_embeddings", True)
    return Architecture(
        str(config["model_type"]),
        vocabulary,
        hidden,
        blocks,
        (
            Linear(hidden, width, 3 * attentions),
            Linear(width, hidden, attentions),
            Linear(hidden, inner, blocks * (2 if is_gated else 1)),
            Linear(inner, hidden, blocks),
        ),
        embeddings=vocabulary * hidden,
        head=0 if is_tied else vocabulary * hidden,
        # A norm before every attention and every feed-forward part, one behind each stack.
        others=(attentions + blocks) * hidden + (positions + hidden) * (2 if decoder else 1),
    )


# --- encoders like BERT ---------------------------------------------------------------------------


def _count_bert(config: Config) -> Architecture:
    hidden, inner, layers = (
        config[name] for name in ("hidden_size", "intermediate_size", "num_hidden_layers")
    )
    return Architecture(
        str(config["model_type"]),
        config["vocab_size"],
        hidden,
        layers,
        (
            Linear(hidden, hidden, 4 * layers, bias=True),
            Linear(hidden, inner, layers, bias=True),
            Linear(inner, hidden, layers, bias=True),
        ),
        embeddings=config["vocab_size"] * hidden,
        head=0,
        others=4 * layers * hidden + _count_positions(config) + (hidden + 1) * hidden,  # pooler
    )


def _count_positions(config: Config) -> int:
    """Positions, token types and the norm of BERT's embeddings."""
    places = config["max_position_embeddings"] + config.get("type_vocab_size", 2)
    return int((places + 2) * config["hidden_size"])


def _add_decoder(encoder: Architecture, config: Config, layers: int) -> Architecture:
    """The encoder with the decoder that a student gets: layers with cross attention, embeddings of
    its own that its head is tied to."""
    hidden, inner = encoder.hidden, config["intermediate_size"]
    decoder = (
        Linear(hidden, hidden, 8 * layers + 1, bias=True),  # one before the head
        Linear(hidden, inner, layers, bias=True),
        Linear(inner, hidden, layers, bias=True),
    )
    return Architecture(
        encoder.model_type,
        encoder.vocabulary,
        hidden,
        encoder.layers + layers,
        (*encoder.linears, *decoder),
        embeddings=2 * encoder.embeddings,
        head=encoder.vocabulary,  # its bias
        others=encoder.others + 6 * layers * hidden + _count_positions(config) + 2 * hidden,
    )


FAMILIES: Mapping[str, Callable[[Config], Architecture]] = {
    **{name: partial(_count_decoder, form=form) for name, form in DECODERS.items()},
    **dict.fromkeys(("t5", "mt5"), _count_t5),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert"), _count_bert),
}
