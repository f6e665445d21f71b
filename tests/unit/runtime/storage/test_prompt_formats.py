"""How a student is asked and how its answers read, without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcrd.errors import Invalid
from qcrd.records.students.prompt_format import PromptFormat
from qcrd.runtime.storage.prompt_formats import load_prompt_format
from services.teacher.errors import InputValidationError
from services.teacher.openai.requests import Message
from services.teacher.students.chat import StreamStripper
from services.teacher.students.loading import get_token_limits
from services.teacher.students.prompting import get_last_question

TOLD = {"predict": "predict: ", "explain": "explain: ", "suffix": "\nAnswer:"}
JOINED = PromptFormat(predict="predict: ", joined=True)


def test_a_question_is_asked_in_the_words_of_training() -> None:
    manner = PromptFormat.model_validate(TOLD)
    assert manner.format_prompt(manner.predict, " what? ") == "predict: what?\nAnswer:"
    assert manner.can_explain
    assert JOINED.can_explain
    assert not PromptFormat(predict="predict: ").can_explain
    # 32 tokens of label, and before it 256 of rationale where both are one answer
    assert (manner.max_new_tokens, JOINED.max_new_tokens) == (32, 288)


@pytest.mark.parametrize(
    ("said", "rationale", "label"),
    [
        ("it swims answer: animal", "it swims", "animal"),
        ("it swims answer : animal ", "it swims", "animal"),
        ("my answer: no, so answer: yes", "my answer: no, so", "yes"),
        ("it swims", "", "it swims"),
        ("answer: animal", "", "animal"),
        ("the unanswer: x answer: y", "the unanswer: x", "y"),
        ("it swims answer:", "it swims", ""),
    ],
)
def test_rationale_and_label_of_one_answer(said: str, rationale: str, label: str) -> None:
    assert JOINED.split_output(said) == (rationale, label)
    assert PromptFormat(predict="predict: ").split_output(said) == ("", said.strip())


def test_an_answer_that_is_cut_before_its_label_is_all_rationale() -> None:
    assert JOINED.split_output(" it swi", is_cut=True) == ("it swi", "")
    assert JOINED.split_output("it swims answer: ani", is_cut=True) == ("it swims", "ani")
    assert PromptFormat(predict="predict: ").split_output("ani", is_cut=True) == ("", "ani")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "no qcrd.json"),
        ("{", "not JSON"),
        ("[]", "qcrd.json"),
        ("{}", r"qcrd.json.predict"),
        (json.dumps({**TOLD, "max_label_tokens": 0}), "qcrd.json.max_label_tokens"),
    ],
)
def test_a_folder_that_is_no_student(tmp_path: Path, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / "qcrd.json").write_text(text)
    with pytest.raises(Invalid, match=says):
        load_prompt_format(tmp_path)


def test_a_folder_of_a_later_version_is_read(tmp_path: Path) -> None:
    (tmp_path / "qcrd.json").write_text(json.dumps({**TOLD, "mood": "good"}))
    assert load_prompt_format(tmp_path) == PromptFormat.model_validate(TOLD)


@given(st.lists(st.text(alphabet="ab \n", max_size=4), max_size=8))
def test_trimmed_pieces_are_the_stripped_text(pieces: list[str]) -> None:
    words = StreamStripper()
    assert "".join(words.feed(piece) for piece in pieces) == "".join(pieces).strip()


def test_a_conversation_without_a_question_is_refused() -> None:
    turns = [Message(role="user", content="one"), Message(role="assistant", content="two")]
    assert get_last_question(turns) == "one"
    for silent in ([], turns[1:], [Message(role="user", content=" ")]):
        with pytest.raises(InputValidationError, match="role `user`"):
            get_last_question(silent)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "llama", "max_position_embeddings": 128}, (None, None)),
        # T5 states what it was trained for; 512 + 256 tokens of rationale
        ({"is_encoder_decoder": True, "n_positions": 512}, (512, 768)),
        ({"is_encoder_decoder": True, "encoder": {"max_position_embeddings": 64}}, (64, 320)),
        ({"is_encoder_decoder": True}, (512, 768)),
    ],
)
def test_an_encoder_decoder_has_room_for_question_and_answer(
    config: dict[str, Any], expected: tuple[int | None, int | None]
) -> None:
    assert get_token_limits(config, PromptFormat.model_validate(TOLD)) == expected
