"""TGI's checks of a request, in TGI's order and words (router/src/validation.rs 204-447).

The length rule checks the whole of `max_new_tokens`, as TGI did up to 3.1.0.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from services.teacher.engines.base import Engine, EngineInfo, Generation, Piece, Sampling
from services.teacher.errors import Refused
from services.teacher.wire import GenerateRequest, Parameters

# Several answers per request are not offered; this is TGI's way to say so (MAX_BEST_OF=1).
MAX_BEST_OF = 1


@dataclass(frozen=True)
class Limits:
    """Counts a request may not exceed; lengths are the engine's."""

    max_stop_sequences: int = 4
    max_top_n_tokens: int = 5


def check_before_permit(parameters: Parameters, *, stream: bool) -> None:
    """What TGI refuses even when it is full."""
    best_of = parameters.best_of
    if stream and best_of not in (None, 1):
        raise Refused("`best_of` != 1 is not supported when streaming tokens")
    if stream and parameters.decoder_input_details:
        raise Refused("`decoder_input_details` == true is not supported when streaming tokens")
    if best_of is not None and best_of > MAX_BEST_OF:
        raise Refused("`best_of` != 1 is not allowed for this endpoint")
    if best_of == 0:
        raise Refused(f"`best_of` must be > 0 and <= {MAX_BEST_OF}. Given: 0")


async def validate(request: GenerateRequest, engine: Engine, limits: Limits) -> Generation:
    """The request the engine runs. Raises `Refused`."""
    parameters, info = request.parameters, engine.info
    check_numbers(parameters)
    check_counts(parameters, limits)
    if not request.inputs:
        raise Refused("`inputs` cannot be empty")
    if parameters.truncate is not None and not 1 <= parameters.truncate <= info.max_input_tokens:
        raise Refused(
            "`truncate` must be strictly positive and less than "
            f"{info.max_input_tokens}. Given: {parameters.truncate}"
        )
    pieces = await engine.tokenize(request.inputs)
    prompt, ids = _truncated(request.inputs, pieces, parameters.truncate)
    new = check_length(None if ids is None else len(ids), parameters.max_new_tokens, info)
    if parameters.grammar is not None:
        raise Refused("grammar is not supported")
    return Generation(
        prompt=prompt,
        prompt_ids=ids,
        max_new_tokens=new,
        sampling=sampling(parameters),
        stop=parameters.stop,
        top_n_tokens=parameters.top_n_tokens or 0,
    )


def check_numbers(parameters: Parameters) -> None:
    for name in ("temperature", "repetition_penalty"):
        value = getattr(parameters, name)
        if value is not None and value <= 0:
            raise Refused(f"`{name}` must be strictly positive")
    penalty = parameters.frequency_penalty
    if penalty is not None and not -2 <= penalty <= 2:
        raise Refused("`frequency_penalty` must be >= -2.0 and <= 2.0")
    for name in ("top_p", "typical_p"):
        value = getattr(parameters, name)
        if value is not None and not 0 < value < 1:
            raise Refused(f"`{name}` must be > 0.0 and < 1.0")
    if parameters.top_k is not None and parameters.top_k <= 0:
        raise Refused("`top_k` must be strictly positive")
    if parameters.max_new_tokens == 0:
        raise Refused("`max_new_tokens` must be strictly positive")


def check_counts(parameters: Parameters, limits: Limits) -> None:
    given = len(parameters.stop)
    if given > limits.max_stop_sequences:
        raise Refused(
            f"`stop` supports up to {limits.max_stop_sequences} stop sequences. Given: {given}"
        )
    top = parameters.top_n_tokens or 0
    if top > limits.max_top_n_tokens:
        raise Refused(f"`top_n_tokens` must be >= 0 and <= {limits.max_top_n_tokens}. Given: {top}")


def check_length(count: int | None, wanted: int | None, info: EngineInfo) -> int:
    """How many tokens may be generated after `count` prompt tokens (None: unknown here)."""
    known = count or 0
    new = max(info.max_total_tokens - known, 0) if wanted is None else wanted
    if known + new > info.max_total_tokens:
        raise Refused(
            f"`inputs` tokens + `max_new_tokens` must be <= {info.max_total_tokens}. "
            f"Given: {known} `inputs` tokens and {new} `max_new_tokens`"
        )
    if known > info.max_input_tokens:
        raise Refused(
            f"`inputs` must have less than {info.max_input_tokens} tokens. Given: {known}"
        )
    return new


def sampling(parameters: Parameters) -> Sampling:
    """TGI's idea of when sampling is on (server/utils/tokens.py 62-77); a seed is drawn if so."""
    do_sample = parameters.do_sample or any(
        (
            parameters.temperature not in (None, 1.0),
            parameters.top_k is not None,
            parameters.top_p is not None,
            parameters.typical_p is not None,
        )
    )
    drawn = secrets.randbits(64) if parameters.seed is None else parameters.seed
    return Sampling(
        do_sample=do_sample,
        seed=drawn if do_sample else None,
        temperature=parameters.temperature or 1.0,
        top_k=parameters.top_k,
        top_p=parameters.top_p,
        typical_p=parameters.typical_p,
        repetition_penalty=parameters.repetition_penalty,
        frequency_penalty=parameters.frequency_penalty,
    )


def _truncated(
    text: str, pieces: Sequence[Piece] | None, truncate: int | None
) -> tuple[str, tuple[int, ...] | None]:
    """The prompt and its ids, cut to the last `truncate` tokens."""
    if pieces is None:
        if truncate is not None:
            raise Refused("`truncate` is not supported: this engine has no tokenizer")
        return text, None
    kept = pieces[-truncate:] if truncate else pieces
    if len(kept) < len(pieces):
        start = next((piece.start for piece in kept if piece.stop), 0)
        text = text.encode()[start:].decode(errors="ignore")
    return text, tuple(piece.id for piece in kept)
