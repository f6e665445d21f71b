"""An Ollama Modelfile: the template in Go's language that asks a student as its own asks it."""

from __future__ import annotations

import json
from typing import Any

from qcrd.exports.original import OriginalStudent

MAX_CONTEXT = 4096
"""Tokens of the context that is asked for, at most: a student's prompts are short."""

LAST_QUESTION = (
    '{{- $asked := "" }}'
    '{{- range .Messages }}{{- if eq .Role "user" }}{{- $asked = .Content }}{{- end }}{{- end }}'
    "{{ BEFORE }}{{ $asked }}{{ AFTER }}"
)
"""Most students know one question and no conversation: the user's last message."""

WHOLE_CHAT = (
    "{{- $one := false }}{{- $several := false }}"
    "{{- range .Messages }}{{- if .Content }}"
    "{{- if $one }}{{- $several = true }}{{- end }}{{- $one = true }}"
    "{{- end }}{{- end }}"
    "{{ BEFORE }}{{- $begun := false }}"
    "{{- range .Messages }}{{- if .Content }}"
    '{{- if $begun }}{{ "\\n\\n" }}{{- end }}{{- $begun = true }}'
    "{{- if $several }}"
    '{{- if eq .Role "user" }}{{ "User: " }}'
    '{{- else if eq .Role "assistant" }}{{ "Assistant: " }}'
    '{{- else if eq .Role "tool" }}{{ "Tool: " }}{{- end }}'
    "{{- end }}{{ .Content }}"
    "{{- end }}{{- end }}{{ AFTER }}"
)
"""For students of conversations: each turn with its role, instructions without."""


def render_go_template(original: OriginalStudent) -> str:
    """What asks the student in Ollama, which puts the tokenizer's own control tokens around it.
    The language can neither trim a text nor split control tokens in it, as the student's own
    template does."""
    prompt_format = original.prompt_format
    template = WHOLE_CHAT if prompt_format.conversation else LAST_QUESTION
    # A JSON string is one of Go's, and inside an action nothing of it is read as a template.
    before, after = (
        json.dumps(text, ensure_ascii=False)
        for text in (prompt_format.predict, prompt_format.suffix)
    )
    return template.replace("BEFORE", before).replace("AFTER", after)


def render_modelfile(original: OriginalStudent, gguf_name: str) -> str:
    """A Modelfile beside the file `gguf_name`; greedy, without Ollama's own penalties."""
    form, config = original.prompt_format, original.config
    parameters: list[tuple[str, Any]] = [
        ("temperature", 0),
        ("repeat_penalty", 1),
        ("num_predict", form.max_new_tokens),
        ("num_ctx", min(config.max_position_embeddings, MAX_CONTEXT)),
        *(
            ("stop", json.dumps(original.tokenizer.convert_ids_to_tokens(end), ensure_ascii=False))
            for end in original.ends
        ),
    ]
    return "\n".join(
        [
            f"FROM ./{gguf_name}",
            f'TEMPLATE """{render_go_template(original)}"""',
            *(f"PARAMETER {name} {value}" for name, value in parameters),
            "",
        ]
    )
