"""What a job that may not exist yet wants of its teacher: samples, prompts, and what is there."""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from qcrd.errors import QcrdError
from qcrd.records.specs.spec import JobSpec
from qcrd.records.teachers.prompt import PromptForm
from qcrd.runtime.keys import digest
from services.api.assembling.batches.choose import asks_by_batch
from services.api.assembling.generation_cache import Generation
from services.api.assembling.prompt_form import list_prompt_forms
from services.api.assembling.sampling_plan import SampleRequest
from services.api.assembling.teacher.make_client import make_teacher_client
from services.api.assembling.teacher.teacher_client import TeacherClient, TeacherInfo
from services.api.dependencies import Gateway
from services.api.jobs.estimating.prompt_lengths import (
    CHARACTERS_PER_TOKEN,
    LengthEstimate,
    estimate_lengths,
    measure_tokens,
)
from services.api.jobs.job_prompts import JobPrompt, find_generations, iter_prompts
from services.api.settings import TeacherConfig

MAX_TOKENIZED_PROMPTS = 16
"""Prompts whose tokens are counted by the teacher; the rest are taken to be like them."""


@dataclass(frozen=True)
class TeacherDemand:
    """How many samples are to be paid for, the tokens of all prompts that are sent for them (at
    most: where a request gives no more samples than the teacher surely does) and the cached
    generations."""

    requested: int
    missing: int
    prompt_tokens: int
    prompt_tokens_at_most: int
    cached: Collection[Generation]
    basis: list[str]
    lengths: LengthEstimate


@dataclass(frozen=True)
class PromptSample:
    """The keys of each prompt's samples with its length in characters, and some whole prompts: a
    file may have more text than there is memory."""

    prompts: Sequence[tuple[int, Sequence[str]]]
    sample: Sequence[str]

    @property
    def keys(self) -> list[str]:
        return [key for _, keys in self.prompts for key in keys]

    def count_missing(self, cached: Collection[str]) -> int:
        return sum(key not in cached for key in self.keys)

    def sum_characters(self, cached: Collection[str], max_choices: int) -> int:
        """Of what is sent: a prompt once for every `max_choices` of its missing samples."""
        return sum(
            length * math.ceil(sum(key not in cached for key in keys) / max_choices)
            for length, keys in self.prompts
        )


async def measure_demand(gateway: Gateway, spec: JobSpec, teacher: TeacherConfig) -> TeacherDemand:
    """Where the teacher cannot be asked, everything is taken to be missing."""
    client = make_teacher_client(spec.settings.teacher, teacher)
    info: TeacherInfo | None = None
    try:
        info = await client.fetch_info()
        return await _ask_demand(gateway, spec, client, info, teacher)
    except QcrdError as error:
        form = list_prompt_forms(spec.settings.rationales, teacher, info)[0]
        prompts = sample_prompts(iter_prompts(gateway.store, spec, form))
        unknown = f"{error.message}: whether every prompt fits cannot be known"
        return _sum_up(
            prompts,
            {},
            _limit_choices(spec, teacher, client.max_choices, 1),
            1 / CHARACTERS_PER_TOKEN,
            [f"{error.message}: {CHARACTERS_PER_TOKEN:.0f} characters a token, nothing reused"],
            LengthEstimate(prompts=len(prompts.prompts), message=unknown),
        )
    finally:
        await client.close()


async def _ask_demand(
    gateway: Gateway,
    spec: JobSpec,
    client: TeacherClient,
    info: TeacherInfo,
    teacher: TeacherConfig,
) -> TeacherDemand:
    def find(form: PromptForm) -> tuple[PromptSample, dict[str, Generation]]:
        prompts = sample_prompts(iter_prompts(gateway.store, spec, form))
        return prompts, find_generations(gateway, spec, info, form, prompts.keys)

    form, *other_forms = list_prompt_forms(spec.settings.rationales, teacher, info)
    prompts, cached = find(form)
    for other in other_forms if not cached else ():
        # The form that an earlier job found out that the teacher takes has the answers.
        other_prompts, other_cached = find(other)
        if other_cached:
            form, prompts, cached = other, other_prompts, other_cached
    is_any_missing = prompts.count_missing(cached) > 0
    tokens_per_character, basis = await measure_tokens(
        client, prompts.sample if is_any_missing else (), len(prompts.prompts)
    )
    fits = await estimate_lengths(
        client, info, spec, lambda: iter_prompts(gateway.store, spec, form)
    )
    choices = _limit_choices(spec, teacher, client.max_choices, info.sure_choices)
    return _sum_up(prompts, cached, choices, tokens_per_character, basis, fits)


def _limit_choices(
    spec: JobSpec, teacher: TeacherConfig, expected: int, sure: int
) -> tuple[int, int]:
    """Of one request, which has no more samples than may be in flight, but in a batch."""
    if asks_by_batch(spec, teacher):
        return expected, sure
    return min(expected, teacher.concurrency), min(sure, teacher.concurrency)


def _sum_up(
    prompts: PromptSample,
    cached: dict[str, Generation],
    choices: tuple[int, int],
    tokens_per_character: float,
    basis: list[str],
    lengths: LengthEstimate,
) -> TeacherDemand:
    """`choices`: samples of a prompt per request, as expected and for sure."""
    expected, at_most = (
        round(prompts.sum_characters(cached, each) * tokens_per_character) for each in choices
    )
    if at_most > expected:
        basis = [*basis, f"at most: if it gives {choices[1]} of a prompt's samples per request"]
    wanted, missing = len(prompts.keys), prompts.count_missing(cached)
    return TeacherDemand(wanted, missing, expected, at_most, list(cached.values()), basis, lengths)


def sample_prompts(prompts: Iterable[JobPrompt]) -> PromptSample:
    """Collect prompt lengths and a sample of prompts by digest: equal files give the same one."""
    lengths: list[tuple[int, Sequence[str]]] = []
    heap: list[tuple[int, str]] = []
    for prompt in prompts:
        keys = [SampleRequest(prompt.prompt, n).key for n in range(prompt.samples)]
        lengths.append((len(prompt.text), keys))
        heapq.heappush(heap, (-int(digest(prompt.text), 16), prompt.text))
        if len(heap) > MAX_TOKENIZED_PROMPTS:
            heapq.heappop(heap)
    return PromptSample(lengths, [prompt for _, prompt in heap])
