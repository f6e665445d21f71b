"""From a chat request to what a student is asked, in the words it was trained with.

A student knows one question and no conversation: the last message of the user is the question, and
every other message is ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from qcrd.records.prompt_format import PromptFormat
from services.teacher.errors import InputValidationError, ToolError
from services.teacher.inference.session import InferenceService
from services.teacher.inference.validation import InferenceRequest
from services.teacher.openai.chat_template import get_message_text
from services.teacher.openai.requests import ChatRequest, Message


@dataclass(frozen=True)
class Plan:
    """One choice: what gives the label, and what gives the rationale where that is asked apart.

    `explain`: the rationale is shown; a joined student says it in front of its label.
    """

    manner: PromptFormat
    label: InferenceRequest
    rationale: InferenceRequest | None
    explain: bool


async def plan(
    request: ChatRequest, sessions: InferenceService, manner: PromptFormat, *, explain: bool, n: int
) -> list[Plan]:
    """One plan per choice. Raises `Refused`, `ToolFailed`."""
    most = sessions.settings.max_client_batch_size
    if not 1 <= n <= most:
        raise InputValidationError(f"`n` must be >= 1 and <= {most}. Given: {n}")
    if request.tools:
        raise ToolError("a student answers questions and calls no functions: leave `tools` out")
    if explain and not manner.can_explain:
        raise InputValidationError(
            "`explain`: this student learned labels only, it has no rationales to give"
        )
    question = last_question(request.messages)
    label = await _ask(
        request, sessions, manner.format_prompt(manner.predict, question), manner.max_new_tokens
    )
    if request.response_format is not None:
        label = _with(label, grammar=request.response_format)
    rationale = None
    if explain and manner.explain is not None:
        prompt = manner.format_prompt(manner.explain, question)
        rationale = await _ask(request, sessions, prompt, manner.max_rationale_tokens)
    one = Plan(manner, label, rationale, explain)
    return [_numbered(one, index) for index in range(n)]


def last_question(messages: Sequence[Message]) -> str:
    """Raises `Refused` when the user says nothing."""
    said = [message for message in messages if message.role == "user"]
    text = get_message_text(said[-1], strict=False).strip() if said else ""
    if not text:
        raise InputValidationError(
            "`messages` needs a message of role `user` that holds the question"
        )
    return text


async def _ask(
    request: ChatRequest, sessions: InferenceService, prompt: str, longest: int
) -> InferenceRequest:
    """As many tokens as it was trained to say, fewer where the request or the room has fewer."""
    pieces = await sessions.engine.tokenize(prompt) or ()
    room = max(sessions.engine.info.max_total_tokens - len(pieces), 1)
    wanted = longest if request.max_new_tokens is None else request.max_new_tokens
    parameters = request.to_parameters(top_n_tokens=request.top_logprobs, details=True)
    ask = InferenceRequest(prompt, parameters, request.presence_penalty)
    return _with(ask, max_new_tokens=min(wanted, longest, room))


def _numbered(one: Plan, index: int) -> Plan:
    """Choices of one seed differ, as those of different seeds do."""
    seed = one.label.parameters.seed
    if seed is None or not index:
        return one
    rationale = one.rationale and _with(one.rationale, seed=(seed + index) % 2**64)
    return replace(one, label=_with(one.label, seed=(seed + index) % 2**64), rationale=rationale)


def _with(ask: InferenceRequest, **changes: object) -> InferenceRequest:
    return replace(ask, parameters=ask.parameters.model_copy(update=changes))
