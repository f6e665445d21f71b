"""What the teacher is asked, and the two prefixes under which the student answers."""

from __future__ import annotations

from string import ascii_lowercase

from qcrd.method.answers import ANSWER, EXPLANATION
from qcrd.records.rationales import Question
from qcrd.records.spec import AnswerKind, TaskSpec

# Distilling step-by-step's multi-task prefixes: label under one, rationale under the other.
PREDICT, EXPLAIN = "predict: ", "explain: "


def teacher_prompt(task: TaskSpec, question: Question) -> str:
    """Few-shot prompt in the paper's format, ending where the explanation begins.

    Everything before the last question is equal for all questions of a task, so a server with a
    prefix cache reads it once.
    """
    shots = [
        f"Question: {shot.question}\n{EXPLANATION} {shot.explanation}\n{ANSWER} {shot.answer}"
        for shot in task.examples
    ]
    asked = f"Question: {question_text(task, question)}\n{EXPLANATION}"
    return "\n\n".join(
        [task.instruction.strip()] * bool(task.instruction.strip()) + shots + [asked]
    )


def question_text(task: TaskSpec, question: Question) -> str:
    """The question as teacher and student read it: with its options where it has any."""
    if task.answer is not AnswerKind.CHOICE:
        return question.text.strip()
    options = zip(ascii_lowercase, question.choices, strict=False)
    listed = "\n".join(f"({letter}) {choice}" for letter, choice in options)
    return f"{question.text.strip()}\nAnswer Choices:\n{listed}"
