"""A published folder as transformers 4 reads it: by the words that it knows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from services.trainer.results import older_readers
from tests import tiny


@pytest.mark.parametrize(
    ("rope", "told"),
    [
        ({"rope_type": "default", "rope_theta": 500000.0}, {"rope_theta": 500000.0}),
        (
            {"rope_type": "linear", "factor": 2.0, "rope_theta": 1000.0},
            {"rope_theta": 1000.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        ),
    ],
)
def test_rope_and_tokenizer_are_said_both_ways(
    tmp_path: Path, rope: dict[str, Any], told: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tiny.WORDS) + 3, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=128, rope_parameters=rope,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    older_readers.adapt(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert {name: written.get(name) for name in ("rope_theta", *told)} == told
    assert written["rope_parameters"]["rope_theta"] == rope["rope_theta"]
    tokenizer_config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert tokenizer_config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert tokenizer_config["model_input_names"] == ["input_ids", "attention_mask"]
    # And the newer reader still reads the same model.
    ids = torch.randint(3, 30, (1, 60))
    again: Any = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, model(ids).logits)
    words = AutoTokenizer.from_pretrained(tmp_path)
    assert words("what is a trout").input_ids == tiny.tokenizer()("what is a trout").input_ids
