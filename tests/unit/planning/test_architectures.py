"""Parameters counted from a config.json, against the models that transformers builds of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    EncoderDecoderModel,
)

from qcrd.errors import Invalid
from qcrd.planning.architectures import DECODERS, count_architecture, count_encoder

SMALL = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 80, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0,
    "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
T5 = {"vocab_size": 100, "d_model": 32, "d_kv": 16, "d_ff": 80, "num_layers": 3,
    "num_decoder_layers": 2, "num_heads": 4}  # fmt: skip


def build(auto: Any, model_type: str, **settings: Any) -> tuple[dict[str, Any], Any]:
    """What config.json would say, and the model without memory."""
    config = CONFIG_MAPPING[model_type](**settings)
    with torch.device("meta"):
        return config.to_dict(), auto.from_config(config)


def count_trained(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("model_type", sorted(DECODERS))
def test_a_decoder_has_what_transformers_builds(model_type: str, tied: bool) -> None:
    config, model = build(AutoModelForCausalLM, model_type, **SMALL, tie_word_embeddings=tied)
    counted = count_architecture(config)
    assert counted.parameters == count_trained(model)
    whole = count_trained(model)
    inject_adapter_in_model(LoraConfig(r=4, target_modules="all-linear"), model)
    assert counted.count_lora(4) == count_trained(model) - whole


@pytest.mark.parametrize("biases", [{"attention_bias": True}, {"mlp_bias": True}])
def test_llamas_biases_are_its_configs(biases: dict[str, bool]) -> None:
    config, model = build(AutoModelForCausalLM, "llama", **SMALL, **biases)
    assert count_architecture(config).parameters == count_trained(model)


@pytest.mark.parametrize("model_type", ["t5", "mt5"])
@pytest.mark.parametrize("form", ["relu", "gated-gelu"])
def test_t5_has_what_transformers_builds(model_type: str, form: str) -> None:
    config, model = build(AutoModelForSeq2SeqLM, model_type, **T5, feed_forward_proj=form)
    assert count_architecture(config).parameters == count_trained(model)
    assert count_encoder(config).parameters == count_trained(model.get_encoder())
    whole = count_trained(model)
    inject_adapter_in_model(LoraConfig(r=4, target_modules="all-linear"), model)
    assert count_architecture(config).count_lora(4) == count_trained(model) - whole


@pytest.mark.parametrize("model_type", ["bert", "roberta", "xlm-roberta", "camembert"])
def test_an_encoder_gets_its_decoder(model_type: str) -> None:
    """Built as `student.loading` builds it."""
    config, encoder = build(AutoModel, model_type, **SMALL)
    assert count_encoder(config).parameters == count_trained(encoder)
    decoder_config = copy.deepcopy(encoder.config)
    decoder_config.update(
        {"num_hidden_layers": 2, "is_decoder": True, "add_cross_attention": True,
            "tie_word_embeddings": True}
    )  # fmt: skip
    with torch.device("meta"):
        decoder = AutoModelForCausalLM.from_config(decoder_config)
        model: Any = EncoderDecoderModel(encoder=encoder, decoder=decoder)
    model.tie_weights()
    assert count_architecture(config, decoder_layers=2).parameters == count_trained(model)


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({"vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers":
            30, "num_attention_heads": 9, "num_key_value_heads": 3, "model_type": "llama",
            "tie_word_embeddings": True}, 134_515_008),
        ({"vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "model_type":
            "llama", "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
            "tie_word_embeddings": False}, 8_030_261_248),
    ],
    ids=["SmolLM2-135M", "Llama-3.1-8B"],
)  # fmt: skip
def test_published_models_have_their_published_sizes(
    settings: dict[str, Any], parameters: int
) -> None:
    assert count_architecture(settings).parameters == parameters


def test_another_type_is_named_and_not_guessed() -> None:
    with pytest.raises(Invalid, match="'mamba2' cannot be counted") as found:
        count_architecture({"model_type": "mamba2"})
    assert found.value.param == "model"
    with pytest.raises(Invalid, match="'gpt2'"):
        count_encoder({"model_type": "gpt2"})
    with pytest.raises(Invalid, match="lacks a usable 'hidden_size'"):
        count_architecture({"model_type": "llama"})
