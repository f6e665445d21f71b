"""A student's cascade: what it is unsure of goes to its teacher, where a request asks for that."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any

from starlette.concurrency import run_in_threadpool

from qcrd.errors import Invalid, QcrdError, Transient
from qcrd.method.answers import ParsedOutput
from qcrd.method.prompts import build_teacher_prompt
from qcrd.questions.labelling import parse_teacher_output
from qcrd.records.rationales import Question
from qcrd.records.specs.spec import MethodSpec
from qcrd.records.students.fallback import Fallback
from qcrd.records.students.prompt_format import PROMPT_FORMAT_FILE, PromptFormat
from qcrd.runtime import keys
from qcrd.runtime.storage.store import Store, read_record
from services.api.assembling.prompt_form import list_prompt_forms
from services.api.assembling.sampling_plan import PromptRequest, SampleRequest, SamplingParams
from services.api.assembling.teacher.make_client import make_teacher_client
from services.api.assembling.teacher.memory import open_memory
from services.api.assembling.teacher.teacher_client import StreamProgress, TeacherClient
from services.api.assembling.teacher.teacher_errors import StyleUnsupported
from services.api.completions.schemas import ChatCompletionRequest
from services.api.dependencies import Gateway

log = logging.getLogger(__name__)

JSON = dict[str, Any]


@dataclass(frozen=True)
class TeacherAnswer:
    """What the teacher said and cost; `parsed` None where no answer can be read in it."""

    parsed: ParsedOutput | None
    prompt_tokens: int
    completion_tokens: int

    @property
    def usage(self) -> JSON:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


async def find_fallback(gateway: Gateway, body: ChatCompletionRequest) -> Fallback:
    """The student's; `Invalid` where it has none, or the request cannot have one."""
    if body.stream or (body.n or 1) > 1:
        raise Invalid(
            "`fallback` replaces one whole answer: leave out `stream` and `n`", param="fallback"
        )
    if body.vote or body.best_of:
        raise Invalid(
            "`fallback` goes by the confidence of a greedy answer: leave out `vote` and `best_of`",
            param="fallback",
        )
    prompt_format = await run_in_threadpool(_read_format, gateway.store, body.model)
    confidence = prompt_format.confidence
    if confidence is None or confidence.fallback is None:
        raise Invalid(
            "`fallback`: this student was trained without one (`evaluation.fallback` of its job)",
            param="fallback",
            code="no_fallback",
        )
    if prompt_format.conversation:
        raise Invalid(
            "`fallback` hands on one question, and this student is asked whole conversations",
            param="fallback",
        )
    if confidence.fallback.teacher not in gateway.settings.teachers.teachers:
        raise Invalid(
            f"`fallback`: this server has no teacher {confidence.fallback.teacher!r} any more "
            "(setting QCRD_TEACHERS)",
            param="fallback",
            code="unknown_teacher",
        )
    return confidence.fallback


async def hand_on(
    gateway: Gateway, fallback: Fallback, body: ChatCompletionRequest, response: bytes
) -> bytes:
    """`response` of the student, with the teacher's answer where it is unsure. While the teacher
    cannot be asked the student's own stands, and why."""
    answered: JSON = json.loads(response)
    (choice,) = answered["choices"]
    choice["answered_by"] = "student"
    if choice.get("escalate"):
        try:
            said = await ask_teacher(gateway, fallback, body.question)
        except QcrdError as error:
            log.warning("a question was not handed on: %s", error.message)
            choice["fallback_error"] = error.message
        else:
            answered["fallback_usage"] = said.usage
            _replace_message(choice, said, fallback, explain=body.explain or False)
    return json.dumps(answered).encode()


def _replace_message(
    choice: JSON, said: TeacherAnswer, fallback: Fallback, *, explain: bool
) -> None:
    if said.parsed is None:
        choice["fallback_error"] = f"{fallback.teacher} gave no answer that can be read"
        return
    choice["answered_by"] = fallback.teacher
    choice["message"]["content"] = said.parsed.answer
    if explain:
        choice["message"]["reasoning_content"] = said.parsed.rationale


async def ask_teacher(gateway: Gateway, fallback: Fallback, text: str) -> TeacherAnswer:
    """One sample, asked for as the student's job asked. Raises what a teacher's client does."""
    teacher = gateway.settings.teachers.teachers[fallback.teacher]
    memory = open_memory(gateway.shared.teacher_notes, fallback.teacher, teacher)
    client = make_teacher_client(fallback.teacher, teacher, memory=memory)
    question = Question(id="", text=text)
    try:
        forms = list_prompt_forms(fallback.rationales, teacher, await client.fetch_info())
        for form in forms:
            limit = fallback.rationales.max_new_tokens
            prompt = build_teacher_prompt(fallback.task, question, form, limit)
            sampling = SamplingParams.from_spec(fallback.rationales, form.style)
            request = PromptRequest((SampleRequest(prompt, 0),))
            try:
                return _read(fallback, question, await _generate(client, request, sampling))
            except StyleUnsupported:
                if form is forms[-1]:
                    raise
        raise AssertionError("a teacher is asked in one form at least")
    finally:
        await client.close()


async def _generate(
    client: TeacherClient, request: PromptRequest, sampling: SamplingParams
) -> StreamProgress:
    progress = StreamProgress()
    await client.generate(request, sampling, progress)
    if not progress.completions:
        raise Transient("the teacher gave no answer")
    return progress


def _read(fallback: Fallback, question: Question, progress: StreamProgress) -> TeacherAnswer:
    (said, *_) = progress.completions
    spec = MethodSpec(task=fallback.task, rationales=fallback.rationales)
    parsed = parse_teacher_output(said.text, question, spec)
    return TeacherAnswer(parsed, said.prompt_tokens, said.completion_tokens)


def _read_format(store: Store, model: str) -> PromptFormat:
    return read_record(store, keys.model_prefix(model) + PROMPT_FORMAT_FILE, PromptFormat)
