"""Builds a student's prompts from a chat request, in the format it was trained with.

Most students know one question and no conversation: the last message of the user is the question,
and every other message is ignored. One that was trained on conversations is asked the whole of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from qcrd.records.students.conversation import Turn, render_conversation
from qcrd.records.students.prompt_format import PromptFormat
from services.teacher.errors import InputValidationError, ToolError
from services.teacher.inference.session import InferenceService
from services.teacher.inference.validation import InferenceRequest
from services.teacher.openai.chat_template import get_message_text
from services.teacher.openai.requests import ChatRequest, Message
from services.teacher.students.selection import Selection, check_selection


@dataclass(frozen=True)
class ChoiceRequests:
    """One choice: the request for the label, and that for the rationale where it is separate.

    `explain`: the rationale is shown; a joined student writes it before its label. `selection`: it
    is chosen among several outputs.
    """

    prompt_format: PromptFormat
    question: str
    label: InferenceRequest
    rationale: InferenceRequest | None
    show_rationale: bool
    selection: Selection | None = None

    def with_seed(self, index: int) -> ChoiceRequests:
        """With a seed of its own for each choice, so that the choices of one request differ."""
        seed = self.label.parameters.seed
        if seed is None or not index:
            return self
        own = (seed + index) % 2**64
        rationale = self.rationale and _with_parameters(self.rationale, seed=own)
        return replace(self, label=_with_parameters(self.label, seed=own), rationale=rationale)

    @property
    def is_as_measured(self) -> bool:
        """Whether a single output is what the evaluation looked at: greedy, and shaped by nothing
        but the student's own form."""
        parameters = self.label.parameters
        return self.selection is None and not (
            parameters.do_sample
            or parameters.grammar
            or parameters.stop
            or _has_penalty(self.label)
        )


async def build_choices(
    request: ChatRequest,
    inference: InferenceService,
    prompt_format: PromptFormat,
    *,
    explain: bool,
    n: int,
    selection: Selection | None = None,
) -> list[ChoiceRequests]:
    """One plan per choice. Raises `InputValidationError`, `ToolError`, `JudgeNotUseful`."""
    max_choices = inference.settings.max_client_batch_size
    if not 1 <= n <= max_choices:
        raise InputValidationError(f"`n` must be >= 1 and <= {max_choices}. Given: {n}")
    if request.tools:
        raise ToolError("a student answers questions and calls no functions: leave `tools` out")
    if explain and not prompt_format.can_explain:
        raise InputValidationError(
            "`explain`: this student learned labels only, it has no rationales to give"
        )
    if selection is not None:
        check_selection(selection, prompt_format, stream=bool(request.stream), n=n)
        request = selection.with_sampling(request, prompt_format)
    question = get_question(request.messages, prompt_format)
    label = await _build_request(
        request,
        inference,
        prompt_format.format_prompt(prompt_format.predict, question),
        prompt_format.max_new_tokens,
    )
    if request.response_format is not None:
        label = _with_parameters(label, grammar=request.response_format)
    elif prompt_format.answer_form is not None:
        label = replace(label, answer_form=prompt_format.answer_form)
    rationale = None
    if explain and prompt_format.explain is not None:
        prompt = prompt_format.format_prompt(prompt_format.explain, question)
        rationale = await _build_request(
            request, inference, prompt, prompt_format.max_rationale_tokens
        )
    tells = prompt_format.confidence is not None
    label = replace(label, tells_free_logprobs=tells)
    choice = ChoiceRequests(prompt_format, question, label, rationale, explain, selection)
    return [choice.with_seed(index) for index in range(n)]


def get_question(messages: Sequence[Message], prompt_format: PromptFormat) -> str:
    """The whole chat of a student that was trained on chats, else the user's last message."""
    last = get_last_question(messages)
    if not prompt_format.conversation:
        return last
    turns = [Turn(each.role, get_message_text(each, strict=False)) for each in messages]
    return render_conversation([turn for turn in turns if turn.content.strip()])


def get_last_question(messages: Sequence[Message]) -> str:
    """The user's question. Raises `InputValidationError` when there is none."""
    user_messages = [message for message in messages if message.role == "user"]
    text = get_message_text(user_messages[-1], strict=False).strip() if user_messages else ""
    if not text:
        raise InputValidationError(
            "`messages` needs a message of role `user` that holds the question"
        )
    return text


async def _build_request(
    request: ChatRequest, inference: InferenceService, prompt: str, max_tokens: int
) -> InferenceRequest:
    """A request for the student's trained output length, or less where the limits are lower."""
    tokens = await inference.engine.tokenize(prompt) or ()
    available = max(inference.engine.info.max_total_tokens - len(tokens), 1)
    requested = max_tokens if request.max_new_tokens is None else request.max_new_tokens
    parameters = request.to_parameters(top_n_tokens=request.top_logprobs, details=True)
    inference_request = InferenceRequest(prompt, parameters, request.presence_penalty)
    return _with_parameters(inference_request, max_new_tokens=min(requested, max_tokens, available))


def _has_penalty(request: InferenceRequest) -> bool:
    parameters = request.parameters
    penalties = (parameters.repetition_penalty, parameters.frequency_penalty)
    return any((*penalties, request.presence_penalty))


def _with_parameters(request: InferenceRequest, **changes: object) -> InferenceRequest:
    return replace(request, parameters=request.parameters.model_copy(update=changes))
