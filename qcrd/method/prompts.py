"""The teacher's prompt, and the prefixes of the student's two tasks."""

from __future__ import annotations

from string import ascii_lowercase

from qcrd.method.answers import ANSWER_TAG, EXPLANATION_TAG
from qcrd.records.rationales import Question
from qcrd.records.spec import AnswerKind, FewShotExample, TaskSpec
from qcrd.records.teacher_prompt import ChatMessage, PromptStyle, TeacherPrompt

# Distilling step-by-step's multi-task prefixes: label under one, rationale under the other.
PREDICT_PREFIX, EXPLAIN_PREFIX = "predict: ", "explain: "

CHAT_FORMAT = (
    "First explain how the answer follows, in one to three sentences that begin with "
    f"`{EXPLANATION_TAG}`. Then write the answer and nothing else on a last line that begins with "
    f"`{ANSWER_TAG}`."
)
"""What a few-shot text shows by its form; a chat model has to be told it."""
MAX_LISTED_LABELS = 100
"""Labels that a chat's instruction spells out; more of them are the task's own to explain."""


def build_teacher_prompt(
    task: TaskSpec, question: Question, style: PromptStyle = "completion"
) -> TeacherPrompt:
    """The question after the task's examples, in the paper's format.

    Everything before the question is equal for all questions of a task, so a server with a prefix
    cache reads it once.
    """
    if style == "chat":
        return TeacherPrompt.from_messages(_build_messages(task, question))
    return TeacherPrompt(_build_text(task, question))


def _build_text(task: TaskSpec, question: Question) -> str:
    """It ends where the explanation begins."""
    shots = [f"Question: {shot.question}\n{_format_reply(shot)}" for shot in task.examples]
    final_question = f"Question: {format_question(task, question)}\n{EXPLANATION_TAG}"
    return "\n\n".join(
        [task.instruction.strip()] * bool(task.instruction.strip()) + shots + [final_question]
    )


def _build_messages(task: TaskSpec, question: Question) -> tuple[ChatMessage, ...]:
    """The examples as turns: a chat model takes what it finds in its own as how it replies."""
    instruction = " ".join(filter(None, (task.instruction.strip(), _describe_format(task))))
    messages = [ChatMessage("system", instruction)]
    for shot in task.examples:
        messages += [
            ChatMessage("user", shot.question),
            ChatMessage("assistant", _format_reply(shot)),
        ]
    return (*messages, ChatMessage("user", format_question(task, question)))


def _format_reply(shot: FewShotExample) -> str:
    return f"{EXPLANATION_TAG} {shot.explanation}\n{ANSWER_TAG} {shot.answer}"


def _describe_format(task: TaskSpec) -> str:
    match task.answer:
        case AnswerKind.LABEL if len(task.labels) <= MAX_LISTED_LABELS:
            return f"{CHAT_FORMAT} The answer is one of: {', '.join(task.labels)}."
        case AnswerKind.CHOICE:
            return f"{CHAT_FORMAT} The answer is the letter of one of the choices, in brackets."
        case AnswerKind.NUMBER:
            return f"{CHAT_FORMAT} The answer is one number."
    return CHAT_FORMAT


def format_question(task: TaskSpec, question: Question) -> str:
    """The question as teacher and student read it: with its options where it has any."""
    if task.answer is not AnswerKind.CHOICE:
        return question.text.strip()
    options = zip(ascii_lowercase, question.choices, strict=False)
    option_lines = "\n".join(f"({letter}) {choice}" for letter, choice in options)
    return f"{question.text.strip()}\nAnswer Choices:\n{option_lines}"
