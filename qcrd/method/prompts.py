"""The teacher's prompt, and the prefixes of the student's two tasks."""

from __future__ import annotations

import json

from qcrd.method.answer_reading.marks import ANSWER_TAG, EXPLANATION_TAG
from qcrd.method.answer_reading.option_marks import make_marks
from qcrd.method.structured_answers import ANSWER, EXPLANATION, build_grammar, build_schema
from qcrd.records.rationales import Question
from qcrd.records.specs.task import AnswerKind, FewShotExample, TaskSpec
from qcrd.records.teachers.prompt import ChatMessage, PromptForm, TeacherPrompt

# Distilling step-by-step's multi-task prefixes: label under one, rationale under the other.
PREDICT_PREFIX, EXPLAIN_PREFIX = "predict: ", "explain: "

CHAT_FORMAT = (
    "First explain how the answer follows, in one to three sentences that begin with "
    f"`{EXPLANATION_TAG}`. Then write the answer and nothing else on a last line that begins with "
    f"`{ANSWER_TAG}`."
)
"""What a few-shot text shows by its form; a chat model has to be told it."""
JSON_FORMAT = (
    f"Reply with a JSON object of two fields: `{EXPLANATION}`, one to three sentences on how the "
    f"answer follows, and then `{ANSWER}`, the answer and nothing else."
)
MAX_LISTED_LABELS = 100
"""Labels that a chat's instruction spells out; more of them are the task's own to explain."""
FREE_TEXT = PromptForm()
"""A text that the teacher continues as it likes."""


def build_teacher_prompt(
    task: TaskSpec,
    question: Question,
    form: PromptForm = FREE_TEXT,
    max_new_tokens: int = 256,
) -> TeacherPrompt:
    """The question after the task's examples, in the paper's format.

    Everything before the question is equal for all questions of a task, so a server with a prefix
    cache reads it once.
    """
    if form.style == "chat":
        has_schema = form.structure == "schema"
        schema = json.dumps(build_schema(task, question)) if has_schema else ""
        messages = _build_messages(task, question, as_json=has_schema)
        return TeacherPrompt.from_messages(messages, schema)
    has_grammar = form.structure == "grammar"
    grammar = build_grammar(task, question, max_new_tokens) if has_grammar else ""
    return TeacherPrompt(_build_text(task, question), grammar=grammar)


def _build_text(task: TaskSpec, question: Question) -> str:
    """It ends where the explanation begins."""
    shots = [f"Question: {shot.question}\n{_format_reply(shot)}" for shot in task.examples]
    final_question = f"Question: {format_question(task, question)}\n{EXPLANATION_TAG}"
    return "\n\n".join(
        [task.instruction.strip()] * bool(task.instruction.strip()) + shots + [final_question]
    )


def _build_messages(
    task: TaskSpec, question: Question, *, as_json: bool
) -> tuple[ChatMessage, ...]:
    """The examples as turns: a chat model takes what it finds in its own as how it replies."""
    reply_format = JSON_FORMAT if as_json else CHAT_FORMAT
    described = f"{reply_format}{_describe_answer(task)}"
    instruction = " ".join(filter(None, (task.instruction.strip(), described)))
    messages = [ChatMessage("system", instruction)]
    for shot in task.examples:
        messages += [
            ChatMessage("user", shot.question),
            ChatMessage("assistant", _format_json(shot) if as_json else _format_reply(shot)),
        ]
    return (*messages, ChatMessage("user", format_question(task, question)))


def _format_reply(shot: FewShotExample) -> str:
    return f"{EXPLANATION_TAG} {shot.explanation}\n{ANSWER_TAG} {shot.answer}"


def _format_json(shot: FewShotExample) -> str:
    fields = {EXPLANATION: shot.explanation, ANSWER: shot.answer}
    return json.dumps(fields, ensure_ascii=False)


def _describe_answer(task: TaskSpec) -> str:
    match task.answer:
        case AnswerKind.LABEL if len(task.labels) <= MAX_LISTED_LABELS:
            return f" The answer is one of: {', '.join(task.labels)}."
        case AnswerKind.CHOICE:
            return " The answer is the letter of one of the choices, in brackets."
        case AnswerKind.NUMBER:
            return " The answer is one number."
    return ""


def format_question(task: TaskSpec, question: Question) -> str:
    """The question as teacher and student read it: with its options where it has any."""
    if task.answer is not AnswerKind.CHOICE:
        return question.text.strip()
    options = zip(make_marks(len(question.choices)), question.choices, strict=True)
    option_lines = "\n".join(f"({mark}) {choice}" for mark, choice in options)
    return f"{question.text.strip()}\nAnswer Choices:\n{option_lines}"
