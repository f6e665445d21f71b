"""The Modelfile asks a student as its own chat template does."""

from __future__ import annotations

from pathlib import Path

import pytest

from qcrd.exports.gguf_file.modelfile import render_go_template, render_modelfile
from qcrd.exports.original import OriginalStudent
from tests import exported
from tests.unit.exports import go_template

SYSTEM = ("system", "Be brief.")
CONVERSATIONS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("user", "What kind of thing is a trout?"),),
    (SYSTEM, ("user", "What is it?")),
    (("user", "Hello"), ("assistant", "Hi."), ("user", "What kind of thing is a saw?")),
    (SYSTEM, ("user", "2 + 2?"), ("assistant", "4"), ("user", "And 3 + 3?")),
    (("user", 'He said "stop" and\nleft: \\n is no newline'),),
    (("user", "{{ .Messages }} is no template, {% nor this %}"),),
    (("user", "naïve café 東京 😀"), ("assistant", "answer: fruit"), ("user", "<b>&amp;</b>")),
    (("user", "one"), ("assistant", ""), ("user", "two")),
    (("user", "calls"), ("assistant", "a tool"), ("tool", "42"), ("user", "so?")),
    (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"), ("user", "e")),
)


@pytest.mark.parametrize("conversation", [False, True])
def test_it_renders_ten_conversations_as_the_students_own_template(
    tmp_path: Path, conversation: bool
) -> None:
    """By a small renderer of Go's templates."""
    quoted = {"predict": 'say "so": ', "conversation": conversation}
    prompt_format = exported.FORMAT.model_copy(update=quoted)
    original = OriginalStudent(
        exported.save_student(tmp_path / "student", prompt_format=prompt_format)
    )
    template = render_go_template(original)
    for turns in CONVERSATIONS:
        messages = [{"role": role, "content": content} for role, content in turns]
        expected = original.tokenizer.apply_chat_template(messages, tokenize=False)
        assert go_template.render(template, messages) == expected


def test_it_is_greedy_and_ends_where_the_student_does(tmp_path: Path) -> None:
    original = OriginalStudent(exported.save_student(tmp_path / "student"))
    lines = render_modelfile(original, "student-f16.gguf").splitlines()
    assert lines[0] == "FROM ./student-f16.gguf"
    assert lines[1].startswith('TEMPLATE """{{')
    assert lines[1].endswith('}}"""')
    assert lines[2:] == [
        "PARAMETER temperature 0",
        "PARAMETER repeat_penalty 1",
        "PARAMETER num_predict 32",
        "PARAMETER num_ctx 512",
        'PARAMETER stop "<|im_end|>"',
    ]


def test_the_renderer_has_the_scopes_of_go() -> None:
    template = (
        '{{- $a := "x" }}{{ range .Messages }}{{ $a = .Role }}{{ $a := "inner" }}{{ $a }},'
        '{{- end }} {{ $a }}{{ if eq $a "user" }} yes{{ else if eq $a "q" }} q{{ else }} no'
        "{{ end }}"
    )
    messages = [{"role": "assistant", "content": ""}, {"role": "user", "content": ""}]
    assert go_template.render(template, messages) == "inner,inner, user yes"
