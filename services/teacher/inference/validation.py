"""TGI's checks of a request, in TGI's order and words (router/src/validation.rs 204-447).

The length rule checks the whole of `max_new_tokens`, as TGI did up to 3.1.0; strict mode checks
the first 1,024 of them and lets the rest run until the context is full.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from qcrd.records.students.answer_form import AnswerForm
from services.teacher.engines.base import (
    Conversation,
    Engine,
    EngineInfo,
    Grammar,
    SamplingParams,
    SimpleToken,
    ValidGenerateRequest,
)
from services.teacher.errors import InputValidationError
from services.teacher.inference.json_schema import complete_schema
from services.teacher.inference.wire import (
    GenerateParameters,
    JsonGrammar,
    RegexGrammar,
    SchemaGrammar,
)
from services.teacher.settings import ServerSettings

# TGI generates in pieces of this many tokens and checks the first (validation.rs 139-200).
LENGTH_CHECK_CHUNK = 1024


@dataclass(frozen=True)
class InferenceRequest:
    """One generation as a route wants it: the native request, and what only chat can say.

    `add_special_tokens` is False when a chat template has written the prompt's special tokens
    already.
    """

    inputs: str
    parameters: GenerateParameters
    presence_penalty: float | None = None
    conversation: Conversation | None = None
    add_special_tokens: bool = True
    answer_form: AnswerForm | None = None
    tells_free_logprobs: bool = False


def check_before_admission(
    parameters: GenerateParameters, settings: ServerSettings, *, stream: bool
) -> None:
    """Checks that TGI makes before it takes a permit."""
    best_of, max_best_of = parameters.best_of, settings.max_best_of
    if stream and best_of not in (None, 1):
        raise InputValidationError("`best_of` != 1 is not supported when streaming tokens")
    if stream and parameters.decoder_input_details:
        raise InputValidationError(
            "`decoder_input_details` == true is not supported when streaming tokens"
        )
    if best_of is not None and best_of > 1 == max_best_of:
        raise InputValidationError("`best_of` != 1 is not allowed for this endpoint")
    if best_of is not None and (
        best_of > max_best_of or (best_of == 0 and not settings.tgi_strict)
    ):
        raise InputValidationError(f"`best_of` must be > 0 and <= {max_best_of}. Given: {best_of}")


async def validate(
    request: InferenceRequest, engine: Engine, settings: ServerSettings
) -> ValidGenerateRequest:
    """The request the engine runs. Raises `InputValidationError`."""
    parameters, info = request.parameters, engine.info
    check_value_ranges(parameters)
    check_limits(parameters, settings)
    if not request.inputs and request.conversation is None:
        raise InputValidationError("`inputs` cannot be empty")
    if parameters.truncate is not None and not 1 <= parameters.truncate <= info.max_input_tokens:
        raise InputValidationError(
            "`truncate` must be strictly positive and less than "
            f"{info.max_input_tokens}. Given: {parameters.truncate}"
        )
    tokens = None
    if request.conversation is None:
        tokens = await engine.tokenize(
            request.inputs, add_special_tokens=request.add_special_tokens
        )
    prompt, ids = _truncate(request.inputs, tokens, parameters.truncate)
    max_new_tokens = check_length(
        None if ids is None or not info.states_context else len(ids),
        parameters.max_new_tokens,
        info,
        strict=settings.tgi_strict,
    )
    return ValidGenerateRequest(
        prompt=prompt,
        prompt_token_ids=ids,
        max_new_tokens=max_new_tokens,
        sampling=build_sampling_params(parameters, request.presence_penalty),
        stop=parameters.stop,
        top_n_tokens=parameters.top_n_tokens or 0,
        grammar=await check_grammar(request, engine, settings),
        adapter_id=parameters.adapter_id,
        conversation=request.conversation,
        answer_form=request.answer_form,
        tells_free_logprobs=request.tells_free_logprobs,
    )


def check_value_ranges(parameters: GenerateParameters) -> None:
    if (parameters.best_of or 1) > 1 and not _is_sampling_requested(parameters):
        raise InputValidationError("you must use sampling when `best_of` is > 1")
    for name in ("temperature", "repetition_penalty"):
        value = getattr(parameters, name)
        if value is not None and value <= 0:
            raise InputValidationError(f"`{name}` must be strictly positive")
    penalty = parameters.frequency_penalty
    if penalty is not None and not -2 <= penalty <= 2:
        raise InputValidationError("`frequency_penalty` must be >= -2.0 and <= 2.0")
    for name in ("top_p", "typical_p"):
        value = getattr(parameters, name)
        if value is not None and not 0 < value < 1:
            raise InputValidationError(f"`{name}` must be > 0.0 and < 1.0")
    if parameters.top_k is not None and parameters.top_k <= 0:
        raise InputValidationError("`top_k` must be strictly positive")
    if parameters.max_new_tokens == 0:
        raise InputValidationError("`max_new_tokens` must be strictly positive")


def _is_sampling_requested(parameters: GenerateParameters) -> bool:
    """Whether the validator counts the request as sampling: a neutral value does too (V231-235)."""
    given = (parameters.temperature, parameters.top_k, parameters.top_p, parameters.typical_p)
    return parameters.do_sample or any(value is not None for value in given)


def check_limits(parameters: GenerateParameters, settings: ServerSettings) -> None:
    given = len(parameters.stop)
    if given > settings.max_stop_sequences:
        raise InputValidationError(
            f"`stop` supports up to {settings.max_stop_sequences} stop sequences. Given: {given}"
        )
    if parameters.seed is not None and (parameters.best_of or 1) > 1:
        raise InputValidationError("`seed` must not be set when `best_of` > 1")
    top_n_tokens, max_top_n_tokens = parameters.top_n_tokens or 0, settings.max_top_n_tokens
    if top_n_tokens > max_top_n_tokens:
        raise InputValidationError(
            f"`top_n_tokens` must be >= 0 and <= {max_top_n_tokens}. Given: {top_n_tokens}"
        )


def check_length(
    prompt_tokens: int | None, max_new_tokens: int | None, info: EngineInfo, *, strict: bool = False
) -> int:
    """The most tokens to generate after `prompt_tokens` prompt tokens (None: unknown here)."""
    known_tokens = prompt_tokens or 0
    available = max(info.max_total_tokens - known_tokens, 0)
    if info.max_output_tokens is not None:
        available = min(available, info.max_output_tokens)
    new_tokens = available if max_new_tokens is None else max_new_tokens
    checked = min(new_tokens, LENGTH_CHECK_CHUNK) if strict else new_tokens
    if known_tokens + checked > info.max_total_tokens:
        raise InputValidationError(
            f"`inputs` tokens + `max_new_tokens` must be <= {info.max_total_tokens}. "
            f"Given: {known_tokens} `inputs` tokens and {checked} `max_new_tokens`"
        )
    if known_tokens > info.max_input_tokens:
        raise InputValidationError(
            f"`inputs` must have less than {info.max_input_tokens} tokens. Given: {known_tokens}"
        )
    return min(new_tokens, available)


async def check_grammar(
    request: InferenceRequest, engine: Engine, settings: ServerSettings
) -> Grammar | None:
    body, info = request.parameters.grammar, engine.info
    if body is None:
        return None
    is_passed_on = info.passes_chat_schema and request.conversation is not None
    if settings.disable_grammar_support or not (info.supports_grammar or is_passed_on):
        raise InputValidationError("grammar is not supported")
    grammar = parse_grammar(body)
    await engine.check_grammar(grammar)
    return grammar


def parse_grammar(body: JsonGrammar | RegexGrammar | SchemaGrammar) -> Grammar:
    """Raises `InputValidationError` for a schema that is no schema of an object."""
    if isinstance(body, RegexGrammar):
        return Grammar("regex", body.value)
    schema = body.value if isinstance(body, JsonGrammar) else body.value.definition
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise InputValidationError(f"grammar is not valid: {error}") from error
    if not isinstance(schema, dict) or "properties" not in schema:
        raise InputValidationError("grammar is not valid: Grammar must have a 'properties' field")
    text = json.dumps(complete_schema(schema))
    if isinstance(body, SchemaGrammar):
        return Grammar("json", text, body.value.name, body.value.strict)
    return Grammar("json", text)


def build_sampling_params(
    parameters: GenerateParameters, presence_penalty: float | None = None
) -> SamplingParams:
    """The sampler's parameters. It samples when TGI's does (server/utils/tokens.py 62-77)."""
    do_sample = parameters.do_sample or any(
        (
            parameters.temperature not in (None, 1.0),
            parameters.top_k is not None,
            parameters.top_p is not None,
            parameters.typical_p is not None,
        )
    )
    seed = secrets.randbits(64) if parameters.seed is None else parameters.seed
    return SamplingParams(
        do_sample=do_sample,
        seed=seed if do_sample else None,
        temperature=parameters.temperature or 1.0,
        top_k=parameters.top_k,
        top_p=parameters.top_p,
        typical_p=parameters.typical_p,
        repetition_penalty=parameters.repetition_penalty,
        frequency_penalty=parameters.frequency_penalty,
        presence_penalty=presence_penalty,
    )


def _truncate(
    text: str, tokens: Sequence[SimpleToken] | None, truncate: int | None
) -> tuple[str, tuple[int, ...] | None]:
    """The prompt and its ids, cut to the last `truncate` tokens."""
    if tokens is None:
        if truncate is not None:
            raise InputValidationError("`truncate` is not supported: this engine has no tokenizer")
        return text, None
    kept = tokens[-truncate:] if truncate else tokens
    if len(kept) < len(tokens):
        if not any(piece.stop for piece in tokens):
            raise InputValidationError(
                "`truncate` is not supported: this engine's tokenizer does not tell where in the "
                "text a token is"
            )
        start = next((piece.start for piece in kept if piece.stop), 0)
        text = text.encode()[start:].decode(errors="ignore")
    return text, tuple(piece.id for piece in kept)
