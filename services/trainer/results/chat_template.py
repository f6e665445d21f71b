"""The chat template of a published student: what asks it as it was trained."""

from __future__ import annotations

import json

from qcrd.records.students.control_tokens import list_splittable
from qcrd.records.students.prompt_format import PromptFormat

LAST_QUESTION = """\
{%- set asked = namespace(text='') -%}
{%- for message in messages if message['role'] == 'user' -%}
{%- set asked.text = message['content'] | trim -%}
{%- endfor -%}
"""
"""Most students know one question and no conversation: the user's last message."""

WHOLE_CHAT = """\
{%- set asked = namespace(text='') -%}
{%- set turns = messages | selectattr('content') | list -%}
{%- for turn in turns -%}
{%- set content = turn['content'] | trim -%}
{%- if turns | length > 1 and turn['role'] not in ('system', 'developer') -%}
{%- set content = turn['role'] | capitalize + ': ' + content -%}
{%- endif -%}
{%- set asked.text = asked.text + ('' if loop.first else '\\n\\n') + content -%}
{%- endfor -%}
"""
"""`render_conversation` for students of conversations."""


CONTROL_TOKENS = """\
{%- for token in CONTROL -%}
{%- set asked.text = asked.text | replace(token, token[0] + ' ' + token[1:]) -%}
{%- endfor -%}
"""
"""`ControlTokenSplitter` for `CONTROL`: nobody ends a turn from inside a question."""


def render_chat_template(prompt_format: PromptFormat, frame: tuple[str, str] = ("", "")) -> str:
    """A Jinja template as transformers and the servers built on it read it. `frame`: the control
    tokens that the tokenizer puts around a text, which it leaves to the template of a chat."""
    begin, end = frame
    before = json.dumps(begin + prompt_format.predict, ensure_ascii=False)
    after = json.dumps(prompt_format.suffix + end, ensure_ascii=False)
    question = WHOLE_CHAT if prompt_format.conversation else LAST_QUESTION
    control = json.dumps(list_splittable(prompt_format.control_tokens), ensure_ascii=False)
    split = CONTROL_TOKENS.replace("CONTROL", control)
    return f"{question}{split}{{{{- {before} + asked.text + {after} -}}}}"
