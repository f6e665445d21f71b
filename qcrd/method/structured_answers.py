"""The form that a teacher's answer is held to while it is written, and its reading.

The explanation comes first: an answer that is written before it is a guess that the rest defends.
"""

from __future__ import annotations

import json
import re
from typing import Any

from qcrd.method.answer_reading.marks import ANSWER_TAG
from qcrd.method.answer_reading.option_marks import make_marks
from qcrd.records.rationales import Question
from qcrd.records.specs.task import AnswerKind, TaskSpec

MAX_OPTION_CHARS = 200
"""Characters of an answer that is none of given options."""
BYTES_PER_TOKEN = 3
"""Of an explanation: fewer than English has, so that the answer still fits behind it."""
MIN_EXPLANATION_CHARS = 20
MAX_ENUM_VALUES, MAX_ENUM_CHARS, SMALL_ENUM = 1000, 15_000, 250
"""OpenAI's limits on a strict schema: values in all, and their characters where one has more than
250 values (its guide Structured Outputs, as read 2026-11-28)."""
EXPLANATION, ANSWER = "explanation", "answer"
FENCED = re.compile(r"```(?:json)?\s*(\{.*\})\s*```", re.IGNORECASE | re.DOTALL)
"""What models write that were asked for JSON in words."""


def build_grammar(task: TaskSpec, question: Question, max_new_tokens: int) -> str:
    """A regular expression of the text behind `<Explanation>:`: a line, and the tagged answer."""
    answers = "|".join(map(re.escape, _list_options(task, question)))
    longest = max(map(len, _list_options(task, question)), default=MAX_OPTION_CHARS)
    room = max_new_tokens * BYTES_PER_TOKEN - longest - len(ANSWER_TAG)
    room //= _measure_bytes_per_character(task, question)
    explanation = rf"[^\n]{{1,{max(MIN_EXPLANATION_CHARS, room)}}}"
    return rf" {explanation}\n{ANSWER_TAG} " + (f"({answers})" if answers else _free(task))


def _measure_bytes_per_character(task: TaskSpec, question: Question) -> int:
    """Of the language that is spoken: tokens go by bytes, a grammar counts characters."""
    spoken = "".join(example.explanation for example in task.examples) or question.text
    return round(len(spoken.encode()) / max(1, len(spoken))) or 1


def _free(task: TaskSpec) -> str:
    if task.answer is AnswerKind.NUMBER:
        return r"-?[0-9][0-9,.]{0,20}( ?/ ?[0-9]{1,12})?"
    return rf"[^\n]{{1,{MAX_OPTION_CHARS}}}"


def build_schema(task: TaskSpec, question: Question) -> dict[str, Any]:
    """A JSON schema of the whole reply, as strict modes take it: all fields required, no others.
    Options that are too many for an enum are left to the parser."""
    options = _list_options(task, question)
    answer: dict[str, Any] = {"type": "string"}
    is_small = len(options) <= SMALL_ENUM or sum(map(len, options)) <= MAX_ENUM_CHARS
    if options and len(options) <= MAX_ENUM_VALUES and is_small:
        answer["enum"] = options
    return {
        "type": "object",
        "properties": {EXPLANATION: {"type": "string"}, ANSWER: answer},
        "required": [EXPLANATION, ANSWER],
        "additionalProperties": False,
    }


def _list_options(task: TaskSpec, question: Question) -> list[str]:
    match task.answer:
        case AnswerKind.LABEL:
            return list(task.labels)
        case AnswerKind.CHOICE:
            return [f"({mark})" for mark in make_marks(len(question.choices))]
    return []


def unfold_structured_reply(reply: str) -> str:
    """The tagged text of a JSON reply with the two fields, any other reply as it is. One that has
    its answer first loses its explanation, which did not lead to it."""
    text = reply.strip()
    if fenced := FENCED.fullmatch(text):
        text = fenced[1]
    if not text.startswith("{"):
        return reply
    try:
        fields = json.loads(text)
    except ValueError:
        return reply
    if not isinstance(fields, dict) or set(fields) != {EXPLANATION, ANSWER}:
        return reply
    explanation = fields[EXPLANATION] if next(iter(fields)) == EXPLANATION else ""
    return f"{explanation}\n{ANSWER_TAG} {fields[ANSWER]}"
