"""The teacher's prompt, and the prefixes of the student's two tasks."""

from __future__ import annotations

from string import ascii_lowercase

from qcrd.method.answer_reading.marks import ANSWER_TAG, EXPLANATION_TAG
from qcrd.records.rationales import Question
from qcrd.records.spec import AnswerKind, TaskSpec

# Distilling step-by-step's multi-task prefixes: label under one, rationale under the other.
PREDICT_PREFIX, EXPLAIN_PREFIX = "predict: ", "explain: "


def build_teacher_prompt(task: TaskSpec, question: Question) -> str:
    """Few-shot prompt in the paper's format, ending where the explanation begins.

    Everything before the last question is equal for all questions of a task, so a server with a
    prefix cache reads it once.
    """
    shots = [
        f"Question: {shot.question}\n{EXPLANATION_TAG} {shot.explanation}\n{ANSWER_TAG} "
        f"{shot.answer}"
        for shot in task.examples
    ]
    final_question = f"Question: {format_question(task, question)}\n{EXPLANATION_TAG}"
    return "\n\n".join(
        [task.instruction.strip()] * bool(task.instruction.strip()) + shots + [final_question]
    )


def format_question(task: TaskSpec, question: Question) -> str:
    """The question as teacher and student read it: with its options where it has any."""
    if task.answer is not AnswerKind.CHOICE:
        return question.text.strip()
    options = zip(ascii_lowercase, question.choices, strict=False)
    option_lines = "\n".join(f"({letter}) {choice}" for letter, choice in options)
    return f"{question.text.strip()}\nAnswer Choices:\n{option_lines}"
