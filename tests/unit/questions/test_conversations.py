"""Files of OpenAI's and ShareGPT's forms, as questions with labels and rationales."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from qcrd.errors import Invalid
from qcrd.questions.rows import QuestionRow, check_records, read_rows
from qcrd.records.students.conversation import Turn, render_conversation

SYSTEM = {"role": "system", "content": "Answer in one word."}
USER = {"role": "user", "content": "What is a trout?"}
REPLY = {"role": "assistant", "content": "fish"}


def read(*records: dict[str, Any]) -> list[QuestionRow]:
    return list(read_rows(encode(*records)))


def encode(*records: dict[str, Any]) -> io.BytesIO:
    return io.BytesIO("\n".join(map(json.dumps, records)).encode())


@pytest.mark.parametrize(
    ("record", "question", "label"),
    [
        ({"messages": [USER, REPLY]}, "What is a trout?", "fish"),
        (
            {"messages": [SYSTEM, USER, REPLY]},
            "Answer in one word.\n\nUser: What is a trout?",
            "fish",
        ),
        (
            {"messages": [USER, REPLY, {"role": "user", "content": "Sure?"}, REPLY]},
            "User: What is a trout?\n\nAssistant: fish\n\nUser: Sure?",
            "fish",
        ),
        ({"messages": [USER]}, "What is a trout?", None),
        (
            {"messages": [{**USER, "content": [{"type": "text", "text": "What?"}]}, REPLY]},
            "What?",
            "fish",
        ),
        ({"prompt": "What is a trout? ->", "completion": " fish"}, "What is a trout? ->", "fish"),
        (
            {
                "input": {"messages": [USER], "tools": []},
                "preferred_output": [REPLY],
                "non_preferred_output": [{**REPLY, "content": "tool"}],
            },
            "What is a trout?",
            "fish",
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "What is a trout?"},
                    {"from": "gpt", "value": "fish"},
                ]
            },
            "What is a trout?",
            "fish",
        ),
    ],
)
def test_the_last_reply_is_the_label_of_all_before_it(
    record: dict[str, Any], question: str, label: str | None
) -> None:
    (row,) = read(record)
    assert (row.question.text, row.question.label) == (question, label)


@pytest.mark.parametrize(
    "reply",
    [
        {**REPLY, "reasoning_content": "It swims."},
        {**REPLY, "reasoning": "It swims."},
        {**REPLY, "content": "<think>It swims.</think>fish"},
    ],
)
def test_reasoning_is_a_rationale_of_the_label(reply: dict[str, Any]) -> None:
    (row,) = read({"messages": [USER, reply]})
    assert (row.question.label, row.outputs, row.explains_label) == ("fish", ("It swims.",), True)


def test_thoughts_are_no_part_of_replies() -> None:
    """Neither an empty block, nor one beside reasoning that stands apart, nor an earlier turn's."""
    (empty,) = read({"messages": [USER, {**REPLY, "content": "<think>\n\n</think>\n\nfish"}]})
    assert (empty.question.label, empty.outputs) == ("fish", ())
    thought = {**REPLY, "content": "<think>t</think>fish", "reasoning_content": "r"}
    (row,) = read({"messages": [USER, thought, {"role": "user", "content": "Sure?"}, thought]})
    assert "<think>" not in row.question.text
    assert (row.question.label, row.outputs) == ("fish", ("r",))


@pytest.mark.parametrize(
    "pair",
    [
        {"input": {"messages": [USER]}, "preferred_output": []},
        {"input": {"messages": [USER]}, "preferred_output": [USER]},
        {"input": {"messages": [USER, REPLY]}, "preferred_output": []},
        {"preferred_output": [REPLY]},
    ],
)
def test_a_pair_without_a_preferred_reply_is_refused(pair: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match="preferred_output"):
        read(pair)


def test_other_columns_stay_beside_the_question() -> None:
    (row,) = read({"messages": [USER, REPLY], "parallel_tool_calls": False, "source": "a"})
    assert row.question.metadata == {"parallel_tool_calls": "false", "source": "a"}


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([], "`messages` has no message"),
        ([{"role": ["user"], "content": "a"}, REPLY], "has a message of role"),
        ([{"role": {}, "content": "a"}, REPLY], "has a message of role"),
        ([USER, {**REPLY, "content": "<think>It swims."}], "nothing but a thought"),
        ([USER, {**REPLY, "content": "<think>It swims.</think>"}], "nothing but a thought"),
        ("hello", "`messages` must be a list of messages"),
        ([REPLY], "no message before the assistant's"),
        ([USER, {**REPLY, "weight": 0}], "weight 0"),
        ([USER, {"role": "tool", "content": "x"}, REPLY], "calls of tools cannot be learned"),
        ([USER, {"role": "assistant", "tool_calls": [{"id": "1"}]}], "a call of a tool"),
        ([USER, {"role": "assistant", "content": None}], "`messages.content` must be a string"),
        (
            [{**USER, "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, REPLY],
            "`messages` holds an image: only text",
        ),
        (["hello", REPLY], "has a message of role"),
    ],
)
def test_what_cannot_be_learned_is_named(messages: Any, told: str) -> None:
    with pytest.raises(Invalid) as caught:
        read({"messages": [USER, REPLY]}, {"messages": messages})
    assert caught.value.message.startswith("line 2: ")
    assert told in caught.value.message


def test_a_file_of_chats_says_how_it_is_read() -> None:
    summary = check_records(encode({"messages": [SYSTEM, USER, REPLY]}))
    assert summary.is_conversation
    assert summary.describe() == [
        "conversations are read as questions, the last reply of each as its label"
    ]
    single = check_records(encode({"messages": [USER, REPLY]}))
    assert not single.is_conversation


def test_a_single_turn_is_its_content() -> None:
    assert render_conversation([Turn("user", " hello ")]) == "hello"
    assert render_conversation([Turn("developer", "be brief"), Turn("user", "hello")]) == (
        "be brief\n\nUser: hello"
    )
