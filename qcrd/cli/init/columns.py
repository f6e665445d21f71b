"""Guess of a file's columns: question, label, choices and outputs, by the names that people use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Source = str | list[str]
"""A column or a template, or several columns, as `task.fields` has them."""

QUESTION_TEMPLATES: Sequence[tuple[Sequence[str], str]] = (
    (("premise", "hypothesis"), "Premise: {premise}\nHypothesis: {hypothesis}"),
    (("sentence1", "sentence2"), "{sentence1}\n{sentence2}"),
    (("question1", "question2"), "{question1}\n{question2}"),
    (("text_a", "text_b"), "{text_a}\n{text_b}"),
    (("body", "question"), "{body} {question}"),
    (("context", "question"), "{context}\n\n{question}"),
    (("passage", "question"), "{passage}\n\n{question}"),
    (("instruction", "input"), "{instruction}\n\n{input}"),
)
QUESTION_NAMES = (
    "question query problem prompt instruction inputs input text sentence utterance goal review"
    " content question_text question_stem ctx source title"
).split()
LABEL_NAMES = (
    "label gold_label answer answerkey target gold final_answer correct_answer correct_option"
    " correct cop completion output response reply class category intent sentiment coarse_label"
    " label_text is_duplicate answers equation labels summary"
).split()
CHOICE_NAMES = "choices options endings answer_choices candidates".split()
CHOICE_COLUMNS: Sequence[Sequence[str]] = (
    ("a", "b", "c", "d", "e"),
    ("option_a", "option_b", "option_c", "option_d", "option_e"),
    ("opa", "opb", "opc", "opd", "ope"),
    ("option1", "option2", "option3", "option4"),
    ("ending0", "ending1", "ending2", "ending3"),
    ("sol1", "sol2"),
)
RATIONALE_NAMES = (
    "rationales rationale explanations explanation reasoning cot chain_of_thought solution exp"
    " human_explanation explanation_1"
).split()
OUTPUT_NAMES = "teacher_output teacher_outputs outputs model_output generation generations".split()
LIST_NAMES = frozenset({"teacher_outputs", "outputs", "rationales"})
FORMS = {
    "messages": "chats of OpenAI's form",
    "conversations": "chats of ShareGPT's form",
    "preferred_output": "preference pairs",
}


@dataclass
class ColumnGuess:
    """`fields` for `task.fields`, without those that are named as ours are. `form`: a form that
    needs no naming. `missing`: what no column looks like."""

    fields: dict[str, Source] = field(default_factory=dict)
    form: str | None = None
    missing: list[str] = field(default_factory=list)
    has_outputs: bool = False
    has_choices: bool = False


def guess_columns(
    first: Mapping[str, Any], given: Mapping[str, Source] | None = None
) -> ColumnGuess:
    """From the first record; `given` names some of them."""
    guess = ColumnGuess(dict(given or {}))
    if not guess.fields and (form := find_form(first)) is not None:
        guess.form = form
        guess.has_outputs = True  # the reasoning of replies, where there is any
        return guess
    names = {name.casefold(): name for name in first}
    taken: set[str] = set()
    _guess(guess, "question", _find_question(names), taken)
    _guess(guess, "label", _find_first(names, LABEL_NAMES, taken), taken)
    _step_into_answers(guess, first)
    guess.has_choices = _guess_choices(guess, names, taken)
    guess.has_outputs = _guess_outputs(guess, names, taken)
    guess.missing = [name for name in ("question", "label") if guess.fields.get(name) is None]
    guess.fields = {
        name: source for name, source in guess.fields.items() if source and source != name
    }
    return guess


def _step_into_answers(guess: ColumnGuess, first: Mapping[str, Any]) -> None:
    """SQuAD's answers are an object with several texts, of which the first counts."""
    column = guess.fields.get("label")
    value = first.get(column) if isinstance(column, str) else None
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        guess.fields["label"] = f"{column}.text.0"


def find_form(first: Mapping[str, Any]) -> str | None:
    if "question" in first:
        return None
    if "prompt" in first and "completion" in first:
        return "prompts with completions"
    return next((form for name, form in FORMS.items() if name in first), None)


def _guess(guess: ColumnGuess, name: str, source: Source | None, taken: set[str]) -> None:
    if name not in guess.fields and source is not None:
        guess.fields[name] = source
    found = guess.fields.get(name)
    if isinstance(found, str):
        taken.add(found.casefold())


def _find_question(names: Mapping[str, str]) -> str | None:
    for columns, template in QUESTION_TEMPLATES:
        if all(column in names for column in columns):
            for column in columns:
                template = template.replace(f"{{{column}}}", f"{{{names[column]}}}")
            return template
    return _find_first(names, QUESTION_NAMES, set())


def _find_first(names: Mapping[str, str], wanted: Sequence[str], taken: set[str]) -> str | None:
    return next((names[name] for name in wanted if name in names and name not in taken), None)


def _guess_choices(guess: ColumnGuess, names: Mapping[str, str], taken: set[str]) -> bool:
    _guess(guess, "choices", _find_first(names, CHOICE_NAMES, taken), taken)
    for columns in CHOICE_COLUMNS:
        present = [names[column] for column in columns if column in names]
        if len(present) >= 2 and "choices" not in guess.fields:
            guess.fields["choices"] = present
    return "choices" in guess.fields


def _guess_outputs(guess: ColumnGuess, names: Mapping[str, str], taken: set[str]) -> bool:
    for wanted, plain in ((OUTPUT_NAMES, "teacher_output"), (RATIONALE_NAMES, "rationales")):
        found = _find_first(names, wanted, taken)
        if found is not None:
            guess.fields[found if found in {*LIST_NAMES, plain} else plain] = found
            return True
    return False
