"""Records in the forms of OpenAI's fine-tuning files, and of ShareGPT's, as questions with labels.

The forms: chats (`messages`), `prompt` and `completion`, and preference pairs (OpenAI's guides
Supervised fine-tuning and Direct preference optimization, as read 2026-11-28).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from qcrd.method.reasoning import split_reasoning
from qcrd.questions.values import get_text, make_value_error
from qcrd.records.students.conversation import Turn, render_conversation
from qcrd.runtime.data_files.records import SourceRecord, describe_type, truncate

THOUGHT = re.compile(r"</?think>", re.IGNORECASE)
EMPTY_THOUGHT = re.compile(r"\A\s*<think>\s*</think>", re.IGNORECASE)
SHAREGPT_ROLES = {"human": "user", "gpt": "assistant", "system": "system"}
CHAT_ROLES = frozenset({"system", "developer", "user", "assistant"})


class Converted(NamedTuple):
    """The fields by our names, with other columns beside them. `is_conversation`: of more than one
    message before the reply."""

    fields: dict[str, Any]
    is_conversation: bool = False


def convert_record(record: SourceRecord) -> Converted | None:
    """None for a record in none of the forms. `Invalid` for one that is in a form and cannot be
    learned from."""
    fields = record.fields
    if "question" in fields:
        return None
    if "messages" in fields:
        return _merge(record, ("messages",), _convert_chat(record, fields["messages"], "messages"))
    if isinstance(fields.get("conversations"), list):
        turns = [_from_sharegpt(record, each) for each in fields["conversations"]]
        return _merge(record, ("conversations",), _convert_chat(record, turns, "conversations"))
    if "prompt" in fields and "completion" in fields:
        return _merge(record, ("prompt", "completion"), _convert_completion(record))
    if "preferred_output" in fields:
        names = ("input", "preferred_output", "non_preferred_output")
        return _merge(record, names, _convert_preference(record))
    return None


def _merge(record: SourceRecord, names: Sequence[str], made: Converted) -> Converted:
    rest = {name: value for name, value in record.fields.items() if name not in names}
    return Converted(rest | made.fields, made.is_conversation)


def _convert_chat(record: SourceRecord, messages: Any, name: str) -> Converted:
    """The last message of the assistant is the label, all before it the question. Its reasoning is
    a rationale of the label. A chat that ends in the user's message has no label."""
    if not isinstance(messages, list):
        raise make_value_error(
            record, f"`{name}` must be a list of messages, not {describe_type(messages)}"
        )
    if not messages:
        raise make_value_error(record, f"`{name}` has no message: leave the line out")
    *before, last = messages
    if _get_role(record, last, name) != "assistant":
        return Converted({"question": _render(record, messages, name)}, len(messages) > 1)
    if not before:
        raise make_value_error(record, f"`{name}` has no message before the assistant's")
    if last.get("weight") == 0:
        raise make_value_error(
            record, f"`{name}`: the last message has weight 0, so there is nothing to learn"
        )
    reply = _get_content(record, last, name)
    reasoning, reply = _split_reasoning(last, reply)
    if not reply or THOUGHT.search(reply):
        raise make_value_error(
            record, f"`{name}`: the last reply is nothing but a thought, so there is no label in it"
        )
    made: dict[str, Any] = {"question": _render(record, before, name), "label": reply}
    if reasoning:
        made["rationales"] = [reasoning]
    return Converted(made, len(before) > 1)


def _split_reasoning(message: Mapping[str, Any], reply: str) -> tuple[str, str]:
    """What stands apart from the reply, else the block before it, which is no part of the reply in
    any case."""
    told = message.get("reasoning_content") or message.get("reasoning")
    trace, rest = split_reasoning(EMPTY_THOUGHT.sub("", reply))
    return (told if isinstance(told, str) and told.strip() else trace).strip(), rest.strip()


def _render(record: SourceRecord, messages: Sequence[Any], name: str) -> str:
    return render_conversation(
        [
            Turn(_get_role(record, message, name), _get_said(record, message, name))
            for message in messages
        ]
    )


def _get_said(record: SourceRecord, message: Mapping[str, Any], name: str) -> str:
    """Without what the assistant thought before an earlier reply, which chats do not send back."""
    content = _get_content(record, message, name)
    if message.get("role") != "assistant":
        return content
    return _split_reasoning({}, content)[1] or content


def _get_role(record: SourceRecord, message: Any, name: str) -> str:
    role = message.get("role") if isinstance(message, Mapping) else None
    if not isinstance(role, str) or role not in CHAT_ROLES:
        raise make_value_error(
            record,
            f"`{name}` has a message of role {truncate(role)!r}: roles are "
            f"{', '.join(sorted(CHAT_ROLES))}; calls of tools cannot be learned here",
            code="unsupported_message",
        )
    return str(role)


def _get_content(record: SourceRecord, message: Mapping[str, Any], name: str) -> str:
    """The text, also of one in parts."""
    if message.get("tool_calls") or message.get("function_call"):
        raise make_value_error(
            record,
            f"`{name}` holds a call of a tool, which cannot be learned here: leave the line out",
            code="unsupported_message",
        )
    content = message.get("content")
    if not isinstance(content, list):
        return get_text(record, f"{name}.content", content)
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in ("text", "input_text", "output_text"):
            what = "an image" if kind in ("image_url", "input_image") else f"a part {kind!r}"
            raise make_value_error(
                record,
                f"`{name}` holds {what}: only text can be learned here, leave the line out",
                code="unsupported_message",
            )
        texts.append(get_text(record, f"{name}.content.text", part.get("text"), allow_empty=True))
    return get_text(record, f"{name}.content", "\n".join(texts))


def _from_sharegpt(record: SourceRecord, turn: Any) -> dict[str, Any]:
    if not isinstance(turn, Mapping):
        raise make_value_error(
            record, f"`conversations` must have objects, not {describe_type(turn)}"
        )
    if "role" in turn:
        return dict(turn)
    speaker = turn.get("from")
    return {"role": SHAREGPT_ROLES.get(str(speaker), speaker), "content": turn.get("value")}


def _convert_completion(record: SourceRecord) -> Converted:
    return Converted(
        {
            "question": get_text(record, "prompt", record.fields["prompt"]).strip(),
            "label": get_text(record, "completion", record.fields["completion"]).strip(),
        }
    )


def _convert_preference(record: SourceRecord) -> Converted:
    """The preferred reply is the label; the other one stays among the columns."""
    given, preferred = record.fields.get("input"), record.fields["preferred_output"]
    messages = given.get("messages") if isinstance(given, Mapping) else None
    if not isinstance(messages, list) or not isinstance(preferred, list):
        raise make_value_error(
            record,
            "a preference pair has `input` with `messages`, `preferred_output` and "
            "`non_preferred_output`, each a list of messages",
        )
    if not preferred or _get_role(record, preferred[-1], "preferred_output") != "assistant":
        raise make_value_error(record, "`preferred_output` must end in a message of the assistant")
    made = _convert_chat(record, [*messages, *preferred], "preferred_output")
    kept = {"non_preferred_output": record.fields.get("non_preferred_output")}
    return Converted(made.fields | kept, made.is_conversation)
