"""TGI's native request and response bodies (router/src/lib.rs).

Strict like serde: no numeric strings, no floats for integers, `null` only where TGI takes it;
unknown keys are ignored at every level. Limits are not checked here but in `validation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.teacher.engines.base import SimpleToken, Token

U32 = Annotated[int, Field(ge=0, le=2**32 - 1)]
U64 = Annotated[int, Field(ge=0, le=2**64 - 1)]
I32 = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
F32 = Annotated[float, Field(allow_inf_nan=False)]
JSON = dict[str, Any]


class WireModel(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class JsonGrammar(WireModel):
    """A schema, as an object or as JSON text."""

    type: Literal["json", "json_object"]
    value: JSON | str


class RegexGrammar(WireModel):
    type: Literal["regex"]
    value: str


class NamedSchema(WireModel):
    name: str | None = None
    definition: JSON = Field(alias="schema")
    strict: bool | None = None


class SchemaGrammar(WireModel):
    type: Literal["json_schema"]
    value: NamedSchema


GrammarBody = Annotated[JsonGrammar | RegexGrammar | SchemaGrammar, Field(discriminator="type")]


class GenerateParameters(WireModel):
    best_of: U64 | None = None
    temperature: F32 | None = None
    repetition_penalty: F32 | None = None
    frequency_penalty: F32 | None = None
    top_k: I32 | None = None
    top_p: F32 | None = None
    typical_p: F32 | None = None
    do_sample: bool = False
    max_new_tokens: U32 | None = None
    return_full_text: bool | None = None
    stop: tuple[str, ...] = ()
    truncate: U64 | None = None
    watermark: bool = False
    details: bool = False
    decoder_input_details: bool = False
    seed: U64 | None = None
    top_n_tokens: U32 | None = None
    grammar: GrammarBody | None = None
    adapter_id: str | None = None


# Without the key `parameters` TGI samples; with it, even empty, it does not (lib.rs 436-458).
DEFAULT_PARAMETERS = GenerateParameters(do_sample=True)


class GenerateRequest(WireModel):
    inputs: str
    parameters: GenerateParameters = DEFAULT_PARAMETERS


class CompatRequest(GenerateRequest):
    """POST /: the two native routes in one."""

    stream: bool = False


class TokenizeRequest(WireModel):
    inputs: str


def serialize_token(item: Token) -> JSON:
    return {
        "id": item.id,
        "text": item.text,
        "logprob": item.logprob,
        "special": item.special,
    }


def serialize_prefill_token(item: Token) -> JSON:
    return {"id": item.id, "text": item.text, "logprob": item.logprob}


def serialize_simple_token(token: SimpleToken) -> JSON:
    return {"id": token.id, "text": token.text, "start": token.start, "stop": token.stop}


def build_details(
    finish_reason: str,
    tokens: Sequence[Token],
    *,
    generated_tokens: int,
    seed: int | None,
    top_n_tokens: int,
    prefill: Sequence[Token] = (),
    estimated: bool = False,
) -> JSON:
    """`estimated`, a key of ours, is there only where it is true."""
    body: JSON = {
        "finish_reason": finish_reason,
        "generated_tokens": generated_tokens,
        "seed": seed,
        "prefill": [serialize_prefill_token(item) for item in prefill],
        "tokens": [serialize_token(item) for item in tokens],
    }
    if estimated:
        body["estimated"] = True
    if top_n_tokens:
        body["top_tokens"] = [serialize_top_tokens(item, top_n_tokens) for item in tokens]
    return body


def serialize_top_tokens(item: Token, count: int) -> list[JSON]:
    return [serialize_token(other) for other in item.top_tokens[:count]]


def build_stream_event(
    index: int,
    item: Token,
    *,
    top_n_tokens: int,
    generated_text: str | None = None,
    stream_details: JSON | None = None,
) -> JSON:
    """One event of the native stream; the two optional parts only come with the last token."""
    body: JSON = {"index": index, "token": serialize_token(item)}
    if top_n_tokens:
        body["top_tokens"] = serialize_top_tokens(item, top_n_tokens)
    return {**body, "generated_text": generated_text, "details": stream_details}
