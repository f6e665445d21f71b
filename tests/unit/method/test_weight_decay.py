"""Weight decay pulls at matrices alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import CohereConfig, CohereForCausalLM

from qcrd.method.judge.model import Judge, train_judge
from qcrd.method.judge.training_pairs import TrainingPair
from qcrd.method.weight_decay import make_decay_groups
from qcrd.records.specs.training_spec import JudgeSpec
from tests import tiny


def test_norms_biases_and_relative_position_biases_are_free_of_decay() -> None:
    model = tiny.t5()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, free = make_decay_groups(model.named_parameters(), 0.1)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    free_names = [names[id(parameter)] for parameter in free["params"]]
    assert all("layer_norm" in name or "relative_attention_bias" in name for name in free_names)
    assert sum("relative_attention_bias" in name for name in free_names) == 2
    assert len(free["params"]) + len(decayed["params"]) == len(names)


def test_a_norm_with_a_scale_for_each_head_is_free_of_decay() -> None:
    config = CohereConfig(
        vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, use_qk_norm=True,
    )  # fmt: skip
    model = CohereForCausalLM(config)
    decayed, free = make_decay_groups(model.named_parameters(), 0.1)
    attention = model.model.layers[0].self_attn
    assert attention.q_norm.weight.ndim == 2
    free_ids = {id(parameter) for parameter in free["params"]}
    assert {id(attention.q_norm.weight), id(attention.k_norm.weight)} <= free_ids
    assert id(attention.q_proj.weight) in {id(parameter) for parameter in decayed["params"]}


def test_frozen_parameters_and_empty_groups_are_left_out() -> None:
    layer = nn.Linear(2, 2)
    layer.weight.requires_grad_(False)
    assert make_decay_groups(layer.named_parameters(), 0.1) == [
        {"params": [layer.bias], "weight_decay": 0.0}
    ]
    assert make_decay_groups([], 0.1) == []


def test_the_judges_decay_is_its_specs() -> None:
    """`paper` at logits of 200 has no gradient, so that a step is decay alone: at rate .1 and decay
    .5 a matrix is 1 - .1 · .5 = .95 of itself, and norms and biases are as they were."""
    torch.manual_seed(0)
    judge = Judge(tiny.bert(), tiny.tokenizer(), hidden=4, max_tokens=16)
    with torch.no_grad():
        judge.second.weight.zero_()
        judge.second.bias.fill_(200.0)
    before = {name: p.detach().clone() for name, p in judge.named_parameters()}
    pairs = [TrainingPair("trout ?", ("it swims",), ("it is a thing",))]
    spec = JudgeSpec(weight_decay=0.5)
    list(train_judge(judge, pairs, spec, steps=1, learning_rate=0.1, seed=0))
    for name, parameter in judge.named_parameters():
        if parameter.grad is not None:
            share = 0.95 if parameter.ndim > 1 else 1.0
            torch.testing.assert_close(parameter.detach(), share * before[name])


def test_the_default_is_the_decay_that_judges_have_always_had() -> None:
    (default,) = {
        group["weight_decay"] for group in torch.optim.AdamW([nn.Parameter()]).param_groups
    }
    assert JudgeSpec().weight_decay == pytest.approx(default)
