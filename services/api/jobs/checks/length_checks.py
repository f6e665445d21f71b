"""Check of a job's prompts against what its teacher reads, before anything is paid."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Iterable

from qcrd.errors import Invalid, QcrdError
from qcrd.records.specs.spec import JobSpec
from services.api.assembling import sampling_plan
from services.api.assembling.prompt_form import choose_prompt_form
from services.api.assembling.refusals import get_allowed_refusals
from services.api.assembling.teacher.make_client import make_teacher_client
from services.api.dependencies import Gateway
from services.api.jobs.estimating.prompt_lengths import (
    LONGEST_PROMPTS,
    LongLine,
    describe_long_lines,
    find_long_lines,
    get_max_prompt_tokens,
)
from services.api.jobs.job_prompts import JobPrompt, iter_prompts
from services.api.settings import TeacherConfig

log = logging.getLogger(__name__)

FIRST_PROMPTS = 16
"""The longest, by bytes: where they fit, the others are left to the estimate and to the job."""


def find_unreadable_lines(gateway: Gateway, spec: JobSpec) -> str | None:
    """A sentence about the lines that the teacher will refuse as too long, None where none is
    known. `Invalid` when they are more than the job goes on without.

    A teacher that is away, or counts no tokens, is no reason to refuse a job.
    """
    teacher = gateway.settings.teachers.teachers.get(spec.settings.teacher)
    if teacher is None or spec.knowledge_of is not None or not sampling_plan.asks_teacher(spec):
        return None
    try:
        count, limit, lines = asyncio.run(_find_lines(gateway, spec, teacher))
    except QcrdError as error:
        log.info("the lengths of prompts are not checked: %s", error)
        return None
    if not lines:
        return None
    sentence = describe_long_lines(lines, limit)
    share = spec.settings.rationales.max_failed_share
    if len(lines) == count or len(lines) > get_allowed_refusals(share, count):
        path = f"method.{spec.method}.rationales.max_failed_share"
        raise Invalid(
            f"`{lines[0].file}`: {sentence}; shorten or leave out these questions, or raise "
            f"`{path}`",
            param=lines[0].file,
            code="questions_too_long",
        )
    return f"{sentence}: the job goes on without them"


async def _find_lines(
    gateway: Gateway, spec: JobSpec, teacher: TeacherConfig
) -> tuple[int, int, list[LongLine]]:
    """How many prompts there are, how many tokens one may have, and the lines of longer ones."""
    client = make_teacher_client(spec.settings.teacher, teacher)
    try:
        info = await client.fetch_info()
        limit = get_max_prompt_tokens(info, spec.settings.rationales.max_new_tokens)
        if limit is None:
            return 0, 0, []
        form = choose_prompt_form(spec.settings.rationales, teacher, info)
        count, prompts = _take_longest(iter_prompts(gateway.store, spec, form), limit)
        lines = await find_long_lines(client, limit, prompts[:FIRST_PROMPTS])
        if lines:
            lines += await find_long_lines(client, limit, prompts[FIRST_PROMPTS:])
        return count, limit, sorted(lines, key=lambda one: (one.file != "training_file", one.line))
    finally:
        await client.close()


def _take_longest(prompts: Iterable[JobPrompt], limit: int) -> tuple[int, list[JobPrompt]]:
    """The number of prompts, and the longest of those with more bytes than `limit`, longest first:
    no prompt has more tokens than bytes."""
    count, heap = 0, list[tuple[int, int, JobPrompt]]()
    for prompt in prompts:
        count += 1
        size = len(prompt.text.encode())
        if size > limit:
            heapq.heappush(heap, (size, -count, prompt))
        if len(heap) > LONGEST_PROMPTS:
            heapq.heappop(heap)
    return count, [prompt for *_, prompt in sorted(heap, reverse=True)]
