"""Builds a prompt from a chat request: template, described functions, a message to continue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from services.teacher.engines.base import Conversation, Engine
from services.teacher.errors import InputValidationError, ToolError
from services.teacher.inference.session import InferenceService
from services.teacher.inference.validation import InferenceRequest
from services.teacher.inference.wire import JSON
from services.teacher.openai import tool_calls
from services.teacher.openai.choices import check_choices
from services.teacher.openai.requests import ChatRequest, Function, ImagePart, Message, TextPart


@dataclass(frozen=True)
class PreparedChat:
    """A prepared request. `request_without_tools` is the same without functions, for a model that
    declines to call one.

    `forces_call`: a grammar forces the output to be a call.
    """

    request: InferenceRequest
    forces_call: bool = False
    request_without_tools: InferenceRequest | None = None

    def for_choice(self, index: int) -> PreparedChat:
        """The same for choice `index`, which draws with a seed of its own."""
        without_tools = self.request_without_tools
        return replace(
            self,
            request=_move_seed(self.request, index),
            request_without_tools=without_tools and _move_seed(without_tools, index),
        )


def _move_seed(request: InferenceRequest, index: int) -> InferenceRequest:
    seed = request.parameters.seed
    if seed is None:
        return request
    moved = request.parameters.model_copy(update={"seed": (seed + index) % 2**64})
    return replace(request, parameters=moved)


async def prepare_chat(request: ChatRequest, inference: InferenceService) -> PreparedChat:
    """Raises `ToolError`, `TemplateFailed`, `InputValidationError`."""
    check_choices(request.n, inference)
    engine, strict = inference.engine, inference.settings.tgi_strict
    if request.response_format is not None and request.tools is not None:
        raise ToolError("Grammar and tools are mutually exclusive")
    functions = tool_calls.select_functions(request.tools, request.tool_choice)
    messages = tuple(_to_template_message(message, strict=strict) for message in request.messages)
    request_without_tools = await _build_request(request, engine, messages, strict=strict)
    if not functions:
        return PreparedChat(request_without_tools)
    prompt = request.tool_prompt
    request_with_tools = await _build_request(
        request, engine, messages, strict=strict, functions=functions, prompt=prompt
    )
    if request_with_tools.conversation is not None:
        return PreparedChat(request_with_tools)
    if inference.settings.disable_grammar_support or not engine.info.supports_grammar:
        raise ToolError("this engine has no grammars, so it cannot call functions")
    parameters = request_with_tools.parameters.model_copy(
        update={"grammar": tool_calls.build_tool_grammar(functions)}
    )
    return PreparedChat(
        replace(request_with_tools, parameters=parameters),
        forces_call=True,
        request_without_tools=request_without_tools,
    )


async def render_prompt(request: ChatRequest, engine: Engine, *, strict: bool) -> str:
    """The prompt that the chat template makes; "" when only the upstream knows it."""
    messages = tuple(_to_template_message(message, strict=strict) for message in request.messages)
    return (await _build_request(request, engine, messages, strict=strict)).inputs


async def _build_request(
    request: ChatRequest,
    engine: Engine,
    messages: tuple[JSON, ...],
    *,
    strict: bool,
    functions: Sequence[Function] = (),
    prompt: str | None = None,
) -> InferenceRequest:
    """TGI reads `presence_penalty` as a repetition penalty of 2 more (lib.rs 960)."""
    penalty = request.presence_penalty
    as_repetition = penalty + 2.0 if strict and penalty is not None else None
    parameters = request.to_parameters(
        repetition_penalty=as_repetition,
        top_n_tokens=request.top_logprobs,
        grammar=request.response_format,
        details=True,
    )
    tool_definitions = tuple(
        {"type": "function", "function": function.model_dump(exclude_none=True)}
        for function in functions
        if function.name != tool_calls.NO_TOOL
    )
    text = await engine.apply_chat_template(Conversation(messages, tool_definitions))
    presence_penalty = None if strict else penalty
    if text is None:
        return InferenceRequest(
            "", parameters, presence_penalty, Conversation(messages, tool_definitions)
        )
    if functions:
        description = tool_calls.describe_functions(functions, prompt)
        text = (
            await engine.apply_chat_template(
                Conversation(_append_to_last_message(messages, description), tool_definitions)
            )
            or text
        )
    return InferenceRequest(
        _cut_after_assistant_message(text, messages),
        parameters,
        presence_penalty,
        add_special_tokens=False,
    )


def _to_template_message(message: Message, *, strict: bool) -> JSON:
    """A message in the form chat templates read: one text as content, absent parts left out."""
    body: JSON = {"role": message.role, "content": get_message_text(message, strict=strict)}
    if message.name is not None:
        body["name"] = message.name
    if message.tool_call_id is not None:
        body["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        body["tool_calls"] = [call.model_dump() for call in message.tool_calls]
    return body


def get_message_text(message: Message, *, strict: bool) -> str:
    """Images are never fetched; TGI writes their addresses into the text."""
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    return "".join(_get_part_text(part, strict=strict) for part in message.content)


def _get_part_text(part: TextPart | ImagePart, *, strict: bool) -> str:
    if isinstance(part, TextPart):
        return part.text
    if not strict:
        raise InputValidationError(
            "`messages` holds an image, which this model cannot read: send text only"
        )
    return f"![]({part.image_url.url})"


def _append_to_last_message(messages: tuple[JSON, ...], text: str) -> tuple[JSON, ...]:
    *before, last = messages or ({"role": "user", "content": ""},)
    return (*before, {**last, "content": last["content"] + text})


def _cut_after_assistant_message(text: str, messages: tuple[JSON, ...]) -> str:
    """The prompt cut after a last message of the assistant, which the model then continues."""
    if not messages or messages[-1]["role"] != "assistant" or not messages[-1]["content"]:
        return text
    content = messages[-1]["content"].strip()
    position = text.rfind(content)
    return text if position < 0 else text[: position + len(content)]
