"""What training may know of a question."""

from __future__ import annotations

from typing import Literal

import pytest

from qcrd.questions.labelling import build_item
from qcrd.records.rationales import Question, Rationale, RationaleItem, Vote
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


@pytest.mark.parametrize(
    ("answers", "texts"), [("label", ["a", "b", "c", "d"]), ("reasoned", ["a", "b", "d"])]
)
def test_a_rationale_for_another_answer_is_not_taught_before_the_label(
    answers: str, texts: list[str]
) -> None:
    """Imported explanations name no answer: they are taken as the label's."""
    spec = MethodSpec.model_validate(
        {
            "task": {"answer": "label", "labels": ["animal", "fruit"]},
            "student": {"answers": answers},
        }
    )
    said = [("a", "fruit"), ("b", "fruit"), ("c", "animal"), ("d", None)]
    item = RationaleItem(
        question=Question(id="q", text="a plum ?", label="fruit"),
        label="fruit",
        gold="fruit",
        vote=Vote(answer="animal", margin=0, tie=True, counts={"animal": 1, "fruit": 2}),
        positives=tuple(Rationale(id=t, question_id="q", text=t, answer=a) for t, a in said),
    )
    assert [r.text for r in make_example(item, spec).positives] == texts


@pytest.mark.parametrize(
    ("counts", "unparseable", "gold", "is_sure"),
    [
        ({"animal": 4, "fruit": 1}, 0, None, True),
        ({"animal": 3, "fruit": 2}, 0, None, False),
        ({"animal": 3, "fruit": 1}, 1, None, False),  # what cannot be read agrees with nobody
        ({"animal": 2}, 0, None, False),  # two outputs are no vote
        ({"animal": 3}, 0, None, True),
        ({"animal": 2, "fruit": 3}, 0, "animal", True),
    ],
)
def test_only_a_label_or_a_clear_vote_says_what_is_wrong(
    counts: dict[str, int], unparseable: int, gold: str | None, is_sure: bool
) -> None:
    task = {"answer": "label", "labels": ["animal", "fruit"]}
    spec = MethodSpec.model_validate({"task": task, "student": {"answers": "reasoned"}})
    item = RationaleItem(
        question=Question(id="q", text="a trout ?"),
        label="animal",
        gold=gold,
        vote=Vote(answer="animal", margin=0, tie=False, counts=counts, unparseable=unparseable),
    )
    assert make_example(item, spec).is_sure is is_sure
    # Where label and rationale are apart every vote says so, as it did before.
    assert make_example(item, MethodSpec.model_validate({"task": task})).is_sure
