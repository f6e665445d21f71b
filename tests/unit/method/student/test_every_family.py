"""Every type of language model that transformers knows: read exactly, or refused with a reason.

`python -m tests.families > qcrd/records/student_families.json` measures the table anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import create_mask
from transformers import (
    FalconConfig,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Lfm2Config,
    Lfm2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from qcrd.errors import Invalid
from qcrd.method.student.causal import CausalStudent
from qcrd.method.student.loading import choose_reading
from qcrd.method.student.packing import Row, build_attention_mask, pack_rows
from qcrd.records.student_families import load_student_families
from tests import families, tiny

TABLE = load_student_families()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For models so small, more of them only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("model_type", sorted({*families.CAUSAL, *families.SEQ2SEQ}))
def test_the_table_says_how_each_type_is_read(model_type: str) -> None:
    way, reason = families.find_way(model_type)
    assert way == (TABLE.find_reading(model_type) or "refused"), reason
    assert (model_type in TABLE.refused) == (way == "refused")


SIZES = {
    "vocab_size": families.VOCABULARY, "hidden_size": 32, "intermediate_size": 64,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip
WINDOW = {"sliding_window": 6}
MIXED = {"layer_types": ["sliding_attention", "full_attention"] * 2}
HEADS_OF_8 = {"head_dim": 8}
"""The prompts of `families` are longer than a window of 6."""

HAND_MADE: dict[str, tuple[str, Callable[[], Any]]] = {
    "mistral": ("packed", lambda: MistralForCausalLM(MistralConfig(**SIZES, **WINDOW))),
    "qwen2, windows in its upper layers": (
        "packed",
        lambda: Qwen2ForCausalLM(
            Qwen2Config(**SIZES, **WINDOW, use_sliding_window=True, max_window_layers=2)
        ),
    ),
    "gemma2": (
        "packed",
        lambda: Gemma2ForCausalLM(Gemma2Config(**SIZES, **WINDOW, **MIXED, **HEADS_OF_8)),
    ),
    "gemma3": (
        "packed",
        lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, **WINDOW, **MIXED, **HEADS_OF_8)),
    ),
    "phi3": ("packed", lambda: Phi3ForCausalLM(Phi3Config(**SIZES, **WINDOW))),
    "lfm2, convolutions between its attention": (
        "pairs",
        lambda: Lfm2ForCausalLM(
            Lfm2Config(**SIZES, layer_types=["conv", "full_attention", "conv", "full_attention"])
        ),
    ),
    "mamba": (
        "pairs",
        lambda: MambaForCausalLM(
            MambaConfig(
                vocab_size=families.VOCABULARY,
                hidden_size=32,
                num_hidden_layers=2,
                state_size=8,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=1,
            )
        ),
    ),
}


@pytest.mark.parametrize("name", HAND_MADE)
def test_windows_and_states_are_read_exactly(name: str) -> None:
    reading, make = HAND_MADE[name]
    torch.manual_seed(0)
    model = families.sharpen(make().eval())
    assert choose_reading(model.config) == reading
    assert not families.find_difference(families.make_student(model, reading))


@pytest.mark.parametrize(
    ("config", "setting"),
    [
        (FalconConfig(alibi=True), "alibi"),
        (Gemma3TextConfig(use_bidirectional_attention=True), "use_bidirectional_attention"),
    ],
)
def test_a_setting_that_is_not_read_exactly_is_refused_by_its_name(
    config: Any, setting: str
) -> None:
    with pytest.raises(Invalid, match=setting) as refused:
        choose_reading(config)
    assert refused.value.code == "inexact_student"
    assert choose_reading(type(config)()) == "packed"


def test_a_packed_row_that_grows_too_long_is_split_by_its_targets() -> None:
    student = families.make_student(tiny.llama(), "packed")
    assert isinstance(student, CausalStudent)
    shapes: list[tuple[int, ...]] = []
    student.model.register_forward_pre_hook(
        lambda _, __, given: shapes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    whole = families.losses_without_gradient(student)
    student.max_row_tokens = 18
    split = families.losses_without_gradient(student)
    torch.testing.assert_close(split, whole)
    (n_whole, _), (n_split, width) = shapes
    assert (n_whole, n_split) == (2, 4)
    assert width < 2 * student.max_row_tokens


def test_each_way_to_attend_has_the_same_losses() -> None:
    losses = {}
    for implementation in ("sdpa", "eager"):
        torch.manual_seed(0)
        model = families.sharpen(MistralForCausalLM(MistralConfig(**SIZES, **WINDOW)).eval())
        model.set_attn_implementation(implementation)
        losses[implementation] = families.losses_without_gradient(
            families.make_student(model, "packed")
        )
    torch.testing.assert_close(losses["eager"], losses["sdpa"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["mistral", "gemma3"])
def test_a_block_mask_compiles_with_a_window(name: str) -> None:
    """FlexAttention compiles for a CPU too, forward alone: gemma3 has a mask of each kind."""
    torch.manual_seed(0)
    model = families.sharpen(HAND_MADE[name][1]().eval())
    dense = families.losses_without_gradient(families.make_student(model, "packed"))
    model.set_attn_implementation("flex_attention")
    blocks = families.losses_without_gradient(families.make_student(model, "packed"))
    torch.testing.assert_close(blocks, dense, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("window", [None, 3])
def test_block_masks_let_through_what_dense_ones_do(window: int | None) -> None:
    rows = [Row(0, (0, 1), 9), Row(1, (2,), 6)]
    prompts = [[5, 6, 7, 8], [5, 6, 7]]
    targets = [([1, 2, 3, 9], []), ([4, 5], [9]), ([], [3, 2, 1, 9])]
    packed = pack_rows(rows, prompts, targets, pad_token_id=0)
    masks = {
        kind: build_attention_mask(packed, {"any": window}, kind, torch.float32)
        for kind in ("sdpa", "flex_attention")
    }
    size, width = packed.ids.shape
    blocks = create_mask(masks["flex_attention"].mask_mod, size, 1, width, width, device="cpu")
    assert torch.equal(blocks, masks["sdpa"])
    # The second target of the first row sees the prompt, nothing of the first, and itself; the
    # question's end is within its window, its beginning is not.
    seen = masks["sdpa"][0, 0, 8].tolist()
    far = [window is None] * 3
    assert seen == [*far, True, False, False, False, True, True]
