"""What training may know of a question."""

from __future__ import annotations

from typing import Literal

import pytest

from qcrd.questions.labelling import build_item
from qcrd.records.rationales import Question
from qcrd.records.specs.spec import MethodSpec
from services.trainer.data.training_dataset import make_example


@pytest.mark.parametrize(("label_mode", "right"), [("gold", "fruit"), ("llm", "animal")])
def test_where_the_vote_is_the_label_no_gold_label_is_known(
    label_mode: Literal["gold", "llm"], right: str
) -> None:
    """The file says fruit, the teacher animal: what is wrong is told by what is trained on."""
    spec = MethodSpec.model_validate(
        {"task": {"answer": "label", "labels": ["animal", "fruit"]}, "label_mode": label_mode}
    )
    question = Question(id="q", text="a trout ?", label="fruit")
    item = build_item(question, ["<Explanation>: It swims. <Answer>: animal"] * 3, spec)
    example = make_example(item, spec)
    assert (example.label, example.gold) == (right, right)
