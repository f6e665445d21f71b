"""The GGUF export: one file and an Ollama Modelfile, checked by llama.cpp before they are given."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from qcrd.errors import Invalid
from qcrd.exports import agreement
from qcrd.exports.gguf_file import llama_cpp
from qcrd.exports.gguf_file.modelfile import render_modelfile
from qcrd.exports.gguf_file.writing import Precision, write_gguf
from qcrd.exports.original import OriginalStudent

TIES = {"f16": 0.02, "q8_0": 1.0}
"""Difference of the two best logits below which either may be said: llama.cpp computes with 16 bits
where transformers has 32, and the weights of q8_0 have 8. On the demo's 312 test questions q8_0
said another token 84 times, with the two best up to .58 apart; f16 never on 50."""
CONVERSATIONS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("user", "What kind of thing is a trout?"),),
    (("system", "Be brief."), ("user", "  2 + 2?\n"), ("assistant", "4"), ("user", "And 3?")),
)


def export_gguf(
    original: OriginalStudent,
    target: Path,
    precision: Precision,
    questions: list[agreement.LabelledQuestion],
) -> str:
    """Write the files into the folder `target`; the sentence says how they were checked. `Invalid`
    for a student that GGUF cannot hold, and for an export that answers in another way."""
    path = target / f"student-{precision}.gguf"
    write_gguf(original, path, precision)
    (target / "Modelfile").write_text(render_modelfile(original, path.name), encoding="utf-8")
    if not llama_cpp.is_installed():
        return (
            "not verified: llama.cpp is not installed here; `pip install 'qcrd[gguf]'` brings it, "
            "and the export is checked then"
        )
    longest = max(len(original.tokenize(q)) for q in _list_texts(questions))
    context = longest + original.prompt_format.max_new_tokens + 64
    with llama_cpp.open_llama_cpp(path, context=context) as engine:
        _check_reading(original, engine)
        generate = partial(
            engine.generate,
            max_new_tokens=original.prompt_format.max_new_tokens,
            end=original.ends[0],
        )
        told = [
            agreement.check_tokens(original, agreement.QUESTIONS, generate, tie=TIES[precision])
        ]
        if questions:
            told.append(agreement.check_labels(original, questions, generate))
    return "llama.cpp gives " + "; ".join(told)


def _list_texts(rows: list[agreement.LabelledQuestion]) -> list[str]:
    return [*agreement.QUESTIONS, *(agreement.format_row(row) for row in rows)]


def _check_reading(original: OriginalStudent, engine: llama_cpp.LlamaCpp) -> None:
    """Both read the same tokens, and the same prompt of a chat."""
    prompt_format = original.prompt_format
    for question in agreement.QUESTIONS:
        prompt = prompt_format.format_prompt(prompt_format.predict, question)
        if engine.tokenize(prompt) != original.tokenize(question):
            raise _refuse(f"llama.cpp reads {prompt!r} as other tokens than the tokenizer")
    for turns in CONVERSATIONS:
        messages = [{"role": role, "content": content} for role, content in turns]
        expected = original.tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        if engine.tokenize(engine.apply_template(messages)) != list(expected["input_ids"]):
            raise _refuse("llama.cpp makes another prompt of its chat template")


def _refuse(reason: str) -> Invalid:
    return Invalid(f"--format: {reason}; nothing was written", code="export_differs")
