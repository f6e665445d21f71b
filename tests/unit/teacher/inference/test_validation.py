"""TGI's checks: their words and their order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from services.teacher.engines.base import (
    Conversation,
    EngineInfo,
    Grammar,
    SimpleToken,
    Token,
    ValidGenerateRequest,
)
from services.teacher.errors import InputValidationError, InvalidBody
from services.teacher.inference.validation import (
    InferenceRequest,
    build_sampling_params,
    check_before_admission,
    check_length,
    validate,
)
from services.teacher.inference.wire import DEFAULT_PARAMETERS, GenerateParameters, GenerateRequest
from services.teacher.metrics.batches import BatchMetrics
from services.teacher.request_body import parse_body
from services.teacher.settings import ServerSettings

PREFIX = "Input validation error: "


class Words:
    """An engine whose tokens are the prompt's words; it only tokenizes."""

    info = EngineInfo("words", "test", max_input_tokens=10, max_total_tokens=16)
    batch_metrics = BatchMetrics()

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def apply_chat_template(self, conversation: Conversation) -> str | None: ...

    async def score_prompt(self, request: ValidGenerateRequest) -> Sequence[Token]:
        return []

    async def check_grammar(self, grammar: Grammar) -> None: ...

    async def tokenize(
        self, text: str, *, add_special_tokens: bool = True
    ) -> Sequence[SimpleToken]:
        pieces, at = [], 0
        for i, word in enumerate(text.split(" ")):
            shown = word if i == 0 else " " + word
            stop = at + len(shown.encode())
            pieces.append(SimpleToken(i, shown, at, stop))
            at = stop
        return pieces

    async def submit(self, request: ValidGenerateRequest) -> AsyncGenerator[Token, None]:
        yield Token(0, "")


def check(inputs: str = "a b c", **parameters: Any) -> ValidGenerateRequest:
    ask = InferenceRequest(inputs, GenerateParameters(**parameters))
    return asyncio.run(validate(ask, Words(), ServerSettings()))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
        (
            {"best_of": 2, "do_sample": True, "seed": 1},
            "`seed` must not be set when `best_of` > 1",
        ),
        ({"temperature": 0.0}, "`temperature` must be strictly positive"),
        ({"repetition_penalty": 0.0}, "`repetition_penalty` must be strictly positive"),
        ({"frequency_penalty": 2.5}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
        ({"top_p": 1.0}, "`top_p` must be > 0.0 and < 1.0"),
        ({"typical_p": 0.0}, "`typical_p` must be > 0.0 and < 1.0"),
        ({"top_k": 0}, "`top_k` must be strictly positive"),
        ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
        ({"stop": ("a",) * 5}, "`stop` supports up to 4 stop sequences. Given: 5"),
        ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
        ({"inputs": ""}, "`inputs` cannot be empty"),
        ({"truncate": 0}, "`truncate` must be strictly positive and less than 10. Given: 0"),
        ({"truncate": 11}, "`truncate` must be strictly positive and less than 10. Given: 11"),
        (
            {"max_new_tokens": 14},
            "`inputs` tokens + `max_new_tokens` must be <= 16. "
            "Given: 3 `inputs` tokens and 14 `max_new_tokens`",
        ),
        (
            {"inputs": "a " * 10 + "a", "max_new_tokens": 1},
            "`inputs` must have less than 10 tokens. Given: 11",
        ),
        ({"grammar": {"type": "regex", "value": "a"}}, "grammar is not supported"),
    ],
)
def test_each_limit_in_tgis_words(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InputValidationError) as refused:
        check(**parameters)
    assert refused.value.message == PREFIX + message
    assert (refused.value.status, refused.value.error_type) == (422, "validation")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"temperature": 0.0}, {"repetition_penalty": 0.0}),
        ({"repetition_penalty": 0.0}, {"frequency_penalty": 3.0}),
        ({"frequency_penalty": 3.0}, {"top_p": 1.0}),
        ({"top_p": 1.0}, {"typical_p": 1.0}),
        ({"typical_p": 1.0}, {"top_k": 0}),
        ({"top_k": 0}, {"max_new_tokens": 0}),
        ({"max_new_tokens": 0}, {"stop": ("a",) * 5}),
        ({"stop": ("a",) * 5}, {"top_n_tokens": 6}),
        ({"top_n_tokens": 6}, {"inputs": ""}),
        ({"inputs": ""}, {"truncate": 0}),
        ({"truncate": 0}, {"max_new_tokens": 99}),
        ({"max_new_tokens": 99}, {"grammar": {"type": "regex", "value": "a"}}),
    ],
)
def test_the_first_wrong_one_in_tgis_order_is_named(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    with pytest.raises(InputValidationError) as alone:
        check(**first)
    with pytest.raises(InputValidationError) as both:
        check(**{**second, **first})
    assert both.value.message == alone.value.message


@pytest.mark.parametrize(
    ("parameters", "stream", "message"),
    [
        ({"best_of": 3}, False, "`best_of` must be > 0 and <= 2. Given: 3"),
        ({"best_of": 0}, False, "`best_of` must be > 0 and <= 2. Given: 0"),
        ({"best_of": 2}, True, "`best_of` != 1 is not supported when streaming tokens"),
        (
            {"decoder_input_details": True},
            True,
            "`decoder_input_details` == true is not supported when streaming tokens",
        ),
    ],
)
def test_refused_before_a_permit(parameters: dict[str, Any], stream: bool, message: str) -> None:
    with pytest.raises(InputValidationError) as refused:
        check_before_admission(GenerateParameters(**parameters), ServerSettings(), stream=stream)
    assert refused.value.message == PREFIX + message


def test_best_of_may_be_switched_off_and_strict_mode_takes_none_for_one() -> None:
    with pytest.raises(InputValidationError) as refused:
        check_before_admission(
            GenerateParameters(best_of=2), ServerSettings(max_best_of=1), stream=False
        )
    assert refused.value.message == PREFIX + "`best_of` != 1 is not allowed for this endpoint"
    check_before_admission(
        GenerateParameters(best_of=0), ServerSettings(tgi_strict=True), stream=False
    )


def test_strict_mode_checks_the_first_chunk_and_stops_where_the_context_is_full() -> None:
    info = EngineInfo("large", "test", max_input_tokens=1999, max_total_tokens=2000)
    assert check_length(100, 10_000, info, strict=True) == 1900
    with pytest.raises(
        InputValidationError, match="Given: 1000 `inputs` tokens and 1024 `max_new_tokens`"
    ):
        check_length(1000, 10_000, info, strict=True)
    with pytest.raises(InputValidationError, match="10000 `max_new_tokens`"):
        check_length(100, 10_000, info)


def test_truncate_keeps_the_tail_and_lengths_count_after_it() -> None:
    generation = check("eins zwei drei vier", truncate=2)
    assert generation.prompt == " drei vier"
    assert generation.prompt_token_ids == (2, 3)
    assert generation.max_new_tokens == 14  # 16 - 2


def test_the_two_defaults_of_do_sample() -> None:
    assert parse_body(GenerateRequest, b'{"inputs":"a"}').parameters is DEFAULT_PARAMETERS
    assert build_sampling_params(DEFAULT_PARAMETERS).do_sample
    assert not build_sampling_params(
        parse_body(GenerateRequest, b'{"inputs":"a","parameters":{}}').parameters
    ).seed


@pytest.mark.parametrize(
    ("parameters", "sampled"),
    [
        ({}, False),
        ({"temperature": 1.0}, False),
        ({"temperature": 0.5}, True),
        ({"top_k": 3}, True),
        ({"typical_p": 0.5}, True),
        ({"seed": 4}, False),
    ],
)
def test_sampling_is_on_when_something_to_sample_by_is_given(
    parameters: dict[str, Any], sampled: bool
) -> None:
    made = build_sampling_params(GenerateParameters(**parameters))
    assert made.do_sample is sampled
    assert (made.seed is not None) is sampled


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"{}", 422),
        (b'{"inputs":1}', 422),
        (b'{"inputs":"a","parameters":null}', 422),
        (b'{"inputs":"a","parameters":{"max_new_tokens":20.0}}', 422),
        (b'{"inputs":"a","parameters":{"seed":-1}}', 422),
        (b'{"inputs":"a","parameters":{"stop":"x"}}', 422),
        (b'{"inputs":"a","parameters":{"do_sample":null}}', 422),
    ],
)
def test_bodies_of_another_shape(body: bytes, status: int) -> None:
    with pytest.raises(InvalidBody) as unreadable:
        parse_body(GenerateRequest, body)
    assert unreadable.value.status == status


def test_nulls_unknown_keys_and_whole_floats_pass() -> None:
    text = (
        b'{"inputs":"a","more":1,"parameters":{"temperature":1,"top_k":null,"seed":null,'
        b'"stop":["x"],"return_full_text":null,"grammar":null,"unknown":[]}}'
    )
    assert parse_body(GenerateRequest, text).parameters.stop == ("x",)
