"""OpenAI's exported files as files of a job: held-out chats with the recorded answers of the tuned
model beside them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from qcrd.errors import Invalid
from qcrd.records.students.conversation import Turn, render_conversation
from qcrd.runtime.data_files.detect import read_records

RECORDED = "The recorded reply of the tuned model.\n<Answer>: {reply}"
"""A reply in the form that outputs of a teacher have; it came without an explanation."""


def read_chats(path: Path) -> Iterator[tuple[str, str | None]]:
    """Question and last reply of each chat, or of each `prompt` with its `completion`. `Invalid`,
    with the line, for a record that is neither."""
    try:
        with path.open("rb") as data:
            for record in read_records(data):
                found = _read_chat(record.fields)
                if found is None:
                    raise Invalid(
                        f"{path}, {record.unit} {record.number}: no chat: a record needs "
                        "`messages`, or `prompt` and `completion`"
                    )
                yield found
    except OSError as error:
        raise Invalid(f"cannot read {path}: {error.strerror}") from error


def _read_chat(fields: Mapping[str, Any]) -> tuple[str, str | None] | None:
    if isinstance(fields.get("prompt"), str):
        completion = fields.get("completion")
        reply = completion.strip() if isinstance(completion, str) else None
        return fields["prompt"].strip(), reply
    messages = fields.get("messages")
    if not isinstance(messages, list) or not all(isinstance(each, Mapping) for each in messages):
        return None
    turns = [Turn(str(each.get("role")), _get_text(each.get("content"))) for each in messages]
    if not turns:
        return None
    *before, last = turns
    if last.role != "assistant":
        return render_conversation(turns), None
    return (render_conversation(before), last.content.strip()) if before else None


def _get_text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return "" if content is None else str(content)


def join_recorded(
    held_out: Iterable[tuple[str, str | None]], recorded: Mapping[str, str]
) -> list[dict[str, str]]:
    """Lines of a test file: each question with its right reply, and the tuned model's where it was
    recorded."""
    lines = []
    for question, reply in held_out:
        line = {"question": question}
        if reply is not None:
            line["label"] = reply
        if question in recorded:
            line["teacher_output"] = RECORDED.format(reply=recorded[question])
        lines.append(line)
    return lines


def write_lines(path: Path, lines: Iterable[Mapping[str, str]]) -> None:
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")
