"""The form that answers are held to, and its reading."""

from __future__ import annotations

import json
import re

import pytest

from qcrd.method.answers import parse_output
from qcrd.method.structured_answers import (
    MAX_ENUM_VALUES,
    build_grammar,
    build_schema,
    unfold_structured_reply,
)
from qcrd.records.rationales import Question
from qcrd.records.specs.task import FewShotExample, TaskSpec

LABELS = TaskSpec.model_validate({"answer": "label", "labels": ["C", "C++", "a (b)"]})
CHOICES = TaskSpec.model_validate({"answer": "choice"})
NUMBERS = TaskSpec.model_validate({"answer": "number"})
QUESTION = Question(id="q", text="Which?", choices=("a hotel", "a farm"))


@pytest.mark.parametrize(
    ("task", "answer", "read"),
    [
        (LABELS, "C++", "C++"),
        (LABELS, "a (b)", "a (b)"),
        (CHOICES, "(b)", "a farm"),
        (NUMBERS, "-1,200", "-1200"),
        (NUMBERS, "3/4", "3/4"),
    ],
)
def test_what_the_grammar_allows_is_read(task: TaskSpec, answer: str, read: str) -> None:
    text = f" It follows.\n<Answer>: {answer}"
    assert re.fullmatch(build_grammar(task, QUESTION, 64), text)
    parsed = parse_output(text, task, QUESTION)
    assert parsed is not None
    assert (parsed.rationale, parsed.answer) == ("It follows.", read)


@pytest.mark.parametrize(
    "text",
    [
        "\n<Answer>: C",
        " It follows.\n<Answer>: D",
        " It follows.\n<Answer>: C\nmore",
        " Two\nlines.\n<Answer>: C",
        f" {'long ' * 60}\n<Answer>: C",
    ],
)
def test_what_the_grammar_does_not_allow(text: str) -> None:
    assert re.fullmatch(build_grammar(LABELS, QUESTION, 64), text) is None


def test_the_schema_has_the_explanation_first_and_the_options() -> None:
    schema = build_schema(LABELS, QUESTION)
    assert list(schema["properties"]) == ["explanation", "answer"]
    assert schema["properties"]["answer"]["enum"] == ["C", "C++", "a (b)"]
    assert build_schema(CHOICES, QUESTION)["properties"]["answer"]["enum"] == ["(a)", "(b)"]


@pytest.mark.parametrize(
    "labels",
    [
        [f"label {number}" for number in range(MAX_ENUM_VALUES + 1)],
        [f"{'long ' * 15} {number}" for number in range(300)],
    ],
)
def test_too_many_labels_are_left_to_the_parser(labels: list[str]) -> None:
    task = TaskSpec.model_validate({"answer": "label", "labels": labels})
    assert "enum" not in build_schema(task, QUESTION)["properties"]["answer"]


def test_an_answer_before_its_explanation_is_unreasoned() -> None:
    reply = json.dumps({"answer": "C", "explanation": "It is so."})
    assert parse_output(unfold_structured_reply(reply), LABELS, QUESTION) is None


@pytest.mark.parametrize("reply", ["{", "{}", '{"a": 1}', "[1]", "plain", '{"answer": "C"}'])
def test_other_replies_stay(reply: str) -> None:
    assert unfold_structured_reply(reply) == reply


@pytest.mark.parametrize("fence", ["{}", "```json\n{}\n```", "```\n{}\n``` "])
def test_a_reply_in_a_code_fence_is_read_as_one_without(fence: str) -> None:
    explained = fence.replace("{}", json.dumps({"explanation": "It ends.", "answer": "C"}))
    assert unfold_structured_reply(explained) == "It ends.\n<Answer>: C"
    guessed = fence.replace("{}", json.dumps({"answer": "C", "explanation": "It ends."}))
    assert unfold_structured_reply(guessed) == "\n<Answer>: C", "a defence is no explanation"


@pytest.mark.parametrize(
    ("explanation", "longest"),
    [("It ends in one.", 178), ("Оно кончается единицей.", 89), ("它以一结尾。", 59)],
)
def test_an_explanation_leaves_room_for_its_answer_in_any_script(
    explanation: str, longest: int
) -> None:
    """64 tokens of 3 bytes, less 5 for the longest label and 9 for the tag, are 178 bytes; of
    these a character has 1, 2 or 3."""
    shot = {"question": "?", "explanation": explanation, "answer": "C"}
    task = LABELS.model_copy(update={"examples": (FewShotExample.model_validate(shot),)})
    grammar = build_grammar(task, QUESTION, 64)
    allowed, one_more = (
        re.fullmatch(grammar, f" {'x' * length}\n<Answer>: C") for length in (longest, longest + 1)
    )
    assert allowed
    assert one_more is None
