"""The form of a base's own chat template around one question and one reply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from qcrd.errors import Invalid

QUESTION, REPLY = "qcrd-question", "qcrd-reply"
"""Stand for a turn's text while a template is read; no template has a reason to change them."""


@dataclass(frozen=True)
class ChatForm:
    """The texts before and behind a question, and the control token that ends a reply."""

    before: str
    after: str
    end: str


def read_chat_form(tokenizer: Any) -> ChatForm:
    """The form of `tokenizer`'s chat template, without the system message that some add to a chat
    that has none. `Invalid` where it has no template, or one that a question cannot be put into.
    """
    if not tokenizer.chat_template:
        raise _make_error("its tokenizer has no chat template")
    question, reply = (
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": REPLY},
    )
    try:
        asked = _render(tokenizer, [question], add_generation_prompt=True)
        told = _render(tokenizer, [question, reply])
        whole = _render(tokenizer, [question, reply, question], add_generation_prompt=True)
    except (TemplateError, LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise _make_error(f"its chat template fails: {error}") from error
    # Behind a turn there is no system message; a template that changes a turn by what follows it
    # shows that of the first one only.
    turn = whole.removeprefix(told) if whole.startswith(told) else asked
    if turn.count(QUESTION) != 1 or told.count(REPLY) != 1:
        raise _make_error("its chat template does not give a turn's text as it is")
    before, after = turn.split(QUESTION)
    begin = tokenizer.bos_token or ""
    if begin and told.startswith(begin):
        # Once: by the tokenizer, where it puts it there itself.
        adds_begin = tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
        before = ("" if adds_begin else begin) + before.removeprefix(begin)
    return ChatForm(before, after, _find_end(tokenizer, told.split(REPLY)[1]))


def _render(tokenizer: Any, messages: list[dict[str, str]], **options: bool) -> str:
    return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))


def _find_end(tokenizer: Any, behind_reply: str) -> str:
    """The first control token behind a reply; the tokenizer's own end where there is none."""
    places = {
        token: behind_reply.find(token)
        for token in tokenizer.get_added_vocab()
        if token.strip() and token in behind_reply
    }
    if places:
        return str(min(places, key=lambda token: (places[token], -len(token))))
    if tokenizer.eos_token is None:
        raise _make_error("neither its chat template nor its tokenizer ends a reply")
    return str(tokenizer.eos_token)


def _make_error(reason: str) -> Invalid:
    return Invalid(
        f"`student.prompt`: chat, but {reason}; `plain` asks the base without one",
        param="student.prompt",
        code="no_chat_form",
    )
