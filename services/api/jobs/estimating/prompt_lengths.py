"""Which lines of a job's files are too long for its teacher, told before anything is spent.

The teacher's own tokenizer is asked, where it has one, for the longest prompts and some others.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence

from pydantic import BaseModel

from qcrd.records.specs.spec import JobSpec
from qcrd.runtime.keys import digest
from services.api.assembling.teacher.teacher_client import TeacherClient, TeacherInfo
from services.api.assembling.teacher.teacher_errors import NoTokenizer
from services.api.jobs.job_prompts import JobPrompt

LONGEST_PROMPTS = 200
SAMPLED_PROMPTS = 1000
"""Prompts besides the longest: what has few bytes may have many tokens."""
BATCH_BYTES = 1 << 20
"""Of prompts that are asked for together, so that a file is never in memory."""
CONCURRENT_REQUESTS = 8
MAX_LISTED_LINES = 100
CHARACTERS_PER_TOKEN = 4.0
"""Of English under today's tokenizers, for when the teacher cannot be asked."""


class LongLine(BaseModel):
    """A line whose prompt has `tokens` tokens, which the teacher will refuse."""

    file: str
    line: int
    tokens: int


class LengthEstimate(BaseModel):
    """`tokenized` of `prompts` were counted; `max_prompt_tokens` is what a prompt may have. All are
    null where nothing can be known; `too_long` has the first hundred of `too_long_count`."""

    prompts: int = 0
    tokenized: int | None = None
    max_prompt_tokens: int | None = None
    too_long_count: int | None = None
    too_long: list[LongLine] = []
    message: str = "no teacher is asked"


JobPrompts = Callable[[], Iterator[JobPrompt]]
"""The same prompts in the same order, each time anew."""


async def estimate_lengths(
    client: TeacherClient, info: TeacherInfo, spec: JobSpec, prompts: JobPrompts
) -> LengthEstimate:
    """Raises what the client raises, but for a teacher without a tokenizer."""
    count, chosen = choose_prompts(prompt.text for prompt in prompts())
    limit = get_max_prompt_tokens(info, spec.settings.rationales.max_new_tokens)
    if limit is None:
        return LengthEstimate(
            prompts=count,
            message="the teacher does not state its limits: whether every prompt fits cannot be "
            "known",
        )
    try:
        long_lines = await find_long_lines(
            client, limit, (prompt for place, prompt in enumerate(prompts()) if place in chosen)
        )
    except NoTokenizer as error:
        return LengthEstimate(
            prompts=count,
            max_prompt_tokens=limit,
            message=f"{error.message}: whether every prompt fits cannot be known",
        )
    return LengthEstimate(
        prompts=count,
        tokenized=len(chosen),
        max_prompt_tokens=limit,
        too_long_count=len(long_lines),
        too_long=long_lines[:MAX_LISTED_LINES],
        message=_describe(count, len(chosen), limit, long_lines),
    )


async def measure_tokens(
    client: TeacherClient, sample: Sequence[str], prompt_count: int
) -> tuple[float, list[str]]:
    """Tokens per character of the `sample`, and what that rests on."""
    if not sample:
        return 0.0, []
    try:
        tokens = await client.count_tokens(sample)
    except NoTokenizer as error:
        basis = f"{error.message}: {CHARACTERS_PER_TOKEN:.0f} characters a token"
        return 1 / CHARACTERS_PER_TOKEN, [basis]
    basis = (
        f"prompt tokens are estimated: by the characters of all {prompt_count} prompts, at the "
        f"rate of {len(sample)} that the teacher counted; whether all fit is counted apart"
    )
    return sum(tokens) / max(1, sum(map(len, sample))), [basis]


def choose_prompts(prompts: Iterable[str]) -> tuple[int, set[int]]:
    """How many there are, and the places of those to count: the longest by bytes, and others by
    their digests, so that the same files give the same ones."""
    count = 0
    longest, sampled = list[tuple[int, int]](), list[tuple[int, int]]()
    for place, prompt in enumerate(prompts):
        count += 1
        _push(longest, (len(prompt.encode()), place), LONGEST_PROMPTS)
        _push(sampled, (int(digest(prompt), 16), place), SAMPLED_PROMPTS + LONGEST_PROMPTS)
    chosen = {place for _, place in longest}
    others = (place for _, place in sorted(sampled, reverse=True) if place not in chosen)
    return count, chosen | {place for place, _ in zip(others, range(SAMPLED_PROMPTS), strict=False)}


def _push(heap: list[tuple[int, int]], item: tuple[int, int], size: int) -> None:
    """Keeps the largest `size`."""
    heapq.heappush(heap, item)
    if len(heap) > size:
        heapq.heappop(heap)


def get_max_prompt_tokens(info: TeacherInfo, max_new_tokens: int) -> int | None:
    limits = [] if info.max_input_tokens is None else [info.max_input_tokens]
    if info.max_total_tokens is not None:
        limits.append(max(0, info.max_total_tokens - max_new_tokens))
    return min(limits, default=None)


async def find_long_lines(
    client: TeacherClient, limit: int, prompts: Iterable[JobPrompt]
) -> list[LongLine]:
    """Those of `prompts` with more than `limit` tokens, in their order. `NoTokenizer`."""
    found = []
    for batch in _iter_batches(prompts):
        counts = await client.count_tokens(
            [prompt.text for prompt in batch], concurrency=CONCURRENT_REQUESTS
        )
        found += [
            LongLine(file=prompt.location.file, line=prompt.location.line, tokens=tokens)
            for prompt, tokens in zip(batch, counts, strict=True)
            if tokens > limit
        ]
    return found


def _iter_batches(prompts: Iterable[JobPrompt]) -> Iterator[list[JobPrompt]]:
    batch, size = list[JobPrompt](), 0
    for prompt in prompts:
        batch.append(prompt)
        size += len(prompt.text.encode())
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _describe(count: int, tokenized: int, limit: int, long_lines: list[LongLine]) -> str:
    counted = "all prompts" if tokenized == count else f"{tokenized:,} of {count:,} prompts"
    if not long_lines:
        return f"{counted} were tokenized and fit into {limit:,} tokens"
    return f"{counted} were tokenized, and {describe_long_lines(long_lines, limit)}"


def describe_long_lines(lines: Sequence[LongLine], limit: int) -> str:
    """How many there are, what a prompt may have, and the first ten with their tokens."""
    shown = ", ".join(f"{each.file} line {each.line} ({each.tokens:,})" for each in lines[:10])
    more = f" and {len(lines) - 10:,} more" if len(lines) > 10 else ""
    verb = "does" if len(lines) == 1 else "do"
    return (
        f"{len(lines):,} {verb} not fit into {limit:,} tokens, which leave room for the answer: "
        f"{shown}{more}"
    )
