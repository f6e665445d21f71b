"""What a job would ask of its teacher and cost, told before anything is spent.

Nothing is generated. Every figure says what it rests on, and is null where nothing is known.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from qcrd.errors import QcrdError
from qcrd.method.prompts import build_teacher_prompt
from qcrd.records.rationales import Question
from qcrd.records.spec import JobSpec
from qcrd.runtime.keys import digest
from qcrd.runtime.storage.store import Store
from services.api.assembling import sampling_plan
from services.api.assembling.generation_cache import Generation, GenerationCache
from services.api.assembling.sampling_plan import SampleRequest, SamplingParams
from services.api.assembling.teacher_client import TeacherClient
from services.api.dependencies import Gateway
from services.api.files import service as files
from services.api.jobs import timings
from services.api.jobs.create import read_spec
from services.api.jobs.shared_rationales import check_shared
from services.api.jobs.validation import check
from services.api.settings import TeacherConfig

TOKENIZED = 16
"""Prompts whose tokens are counted by the teacher; the rest are taken to be like them."""
CHARACTERS_PER_TOKEN = 4.0
"""Of English under today's tokenizers, for when the teacher cannot be asked."""


class TeacherEstimate(BaseModel):
    """`outputs` are wanted, `reused` of them paid for already, `asked` the rest. Tokens and cost
    are of these; `at_most` says what no job of this spec can exceed."""

    outputs: int = 0
    reused: int = 0
    asked: int = 0
    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    completion_tokens_at_most: int = 0
    cost: float | None = None
    cost_at_most: float | None = None
    currency: str | None = None
    basis: list[str] = []


class BudgetEstimate(BaseModel):
    """`fits` None: expected to fit, and not sure to."""

    teacher_tokens: int | None
    cost: float | None
    fits: bool | None
    message: str


class Estimate(BaseModel):
    object: str = "fine_tuning.job.estimate"
    teacher: TeacherEstimate
    budget: BudgetEstimate
    training_steps: int
    assembling_seconds: float | None
    training_seconds: float | None
    basis: list[str]


@dataclass(frozen=True)
class _Prompts:
    """Of all samples by their keys the lengths of their prompts, in characters, and some of the
    prompts. They are not kept whole: a file may have more text than there is memory."""

    lengths: Mapping[str, int]
    count: int
    some: Sequence[str]


@dataclass(frozen=True)
class _Asked:
    """The samples to be paid for, as their prompts' lengths in characters, the teacher's answers
    that there are, and its tokens per character of prompt."""

    wanted: int
    missing: Sequence[int]
    known: Collection[Generation]
    per_character: float
    basis: list[str]


def estimate(here: Gateway, body: dict[str, Any]) -> Estimate:
    """`Invalid` where creating the job would be refused."""
    spec = read_spec(body)
    check(spec, here.store, here.settings, here.validation_cache)
    check_shared(spec, here.jobs)
    questions = sum(1 for _ in files.iter_rows(here.store, spec.training_file))
    teacher = here.settings.teachers.teachers.get(spec.settings.teacher)
    asks = sampling_plan.asks_teacher(spec) and spec.knowledge_of is None and teacher is not None
    told = asyncio.run(_teacher(here, spec, teacher)) if asks and teacher else TeacherEstimate()
    hyper = spec.settings.hyperparameters
    held = 0 if spec.validation_file else max(1, round(questions * hyper.validation_share))
    per_pass = math.ceil((questions - held) / hyper.batch_size)
    steps = hyper.iterations * (hyper.iteration_steps or per_pass)
    assembling, training, basis = _seconds(here, spec, told, steps)
    return Estimate(
        teacher=told,
        budget=_budget(spec, told),
        training_steps=steps,
        assembling_seconds=assembling,
        training_seconds=training,
        basis=basis,
    )


async def _teacher(here: Gateway, spec: JobSpec, teacher: TeacherConfig) -> TeacherEstimate:
    asked = await _asked(here, spec, teacher)
    room = spec.settings.rationales.max_new_tokens * len(asked.missing)
    prompts = round(sum(asked.missing) * asked.per_character)
    lengths = [generation.completion_tokens for generation in asked.known]
    basis = list(asked.basis)
    expected = None
    if not asked.missing:
        expected = 0
    elif lengths:
        expected = round(len(asked.missing) * sum(lengths) / len(lengths))
        basis.append(f"answers as long as the {len(lengths)} that this teacher gave before")
    else:
        basis.append("no answer of this teacher under this sampling is known: only the most is")
    return TeacherEstimate(
        outputs=asked.wanted,
        reused=asked.wanted - len(asked.missing),
        asked=len(asked.missing),
        prompt_tokens=prompts,
        completion_tokens=expected,
        completion_tokens_at_most=room,
        cost=None if expected is None else teacher.compute_cost(prompts, expected),
        cost_at_most=teacher.compute_cost(prompts, room),
        currency=teacher.currency if teacher.has_prices else None,
        basis=basis,
    )


async def _asked(here: Gateway, spec: JobSpec, teacher: TeacherConfig) -> _Asked:
    sampling = SamplingParams.from_spec(spec.settings.rationales)
    prompts = _read(_counted(here.store, spec))
    wanted = prompts.lengths
    client = TeacherClient(spec.settings.teacher, teacher)
    try:
        model = await client.fetch_fingerprint()
        cache = GenerationCache(
            here.store, here.shared.generation_buffer, teacher=model, sampling=sampling.fingerprint
        )
        known = cache.find_many(wanted.keys())
        missing = [length for key, length in wanted.items() if key not in known]
        probe = prompts.some if missing else ()
        tokens = await client.count_tokens(probe)
        per_character = sum(tokens) / max(1, sum(map(len, probe)))
        basis = [f"the teacher tokenized {len(probe)} of {prompts.count} prompts"] * bool(probe)
        return _Asked(len(wanted), missing, known.values(), per_character, basis)
    except QcrdError as error:
        basis = [f"{error.message}: {CHARACTERS_PER_TOKEN:.0f} characters a token, nothing reused"]
        return _Asked(len(wanted), [*wanted.values()], (), 1 / CHARACTERS_PER_TOKEN, basis)
    finally:
        await client.close()


def _counted(store: Store, spec: JobSpec) -> Iterator[tuple[str, int]]:
    """Each prompt, and how many samples of it are wanted."""
    training, test = (_questions(store, file) for file in (spec.training_file, spec.test_file))
    for question, samples in sampling_plan.iter_sample_counts(
        spec.settings.rationales, training, test
    ):
        yield build_teacher_prompt(spec.settings.task, question), samples


def _questions(store: Store, file: str | None) -> Iterator[Question]:
    return (row.question for row in files.iter_rows(store, file)) if file else iter(())


def _read(counted: Iterable[tuple[str, int]]) -> _Prompts:
    """Which prompts are kept is a matter of their digests: the same files give the same ones."""
    lengths: dict[str, int] = {}
    count, kept = 0, list[tuple[int, str]]()
    for prompt, samples in counted:
        lengths |= dict.fromkeys(
            (SampleRequest(prompt, n).key for n in range(samples)), len(prompt)
        )
        if samples:
            count += 1
            heapq.heappush(kept, (-int(digest(prompt), 16), prompt))
        if len(kept) > TOKENIZED:
            heapq.heappop(kept)
    return _Prompts(lengths, count, [prompt for _, prompt in kept])


def _budget(spec: JobSpec, told: TeacherEstimate) -> BudgetEstimate:
    limit = spec.budget
    expected = (told.prompt_tokens + (told.completion_tokens or 0), told.cost)
    most = (told.prompt_tokens + told.completion_tokens_at_most, told.cost_at_most)
    unknown = told.completion_tokens is None
    sure = _within(limit.teacher_tokens, most[0]) and _within(limit.cost, most[1])
    likely = _within(limit.teacher_tokens, expected[0]) and _within(limit.cost, expected[1])
    if limit.teacher_tokens is None and limit.cost is None:
        fits, message = True, "no budget is set"
    elif sure:
        fits, message = True, "the budget is enough even if every answer has its full length"
    elif likely:
        fits, message = None, "not sure to be enough" if unknown else "expected to be enough"
    else:
        fits, message = False, "the job would pause before its teacher has answered everything"
    return BudgetEstimate(
        teacher_tokens=limit.teacher_tokens, cost=limit.cost, fits=fits, message=message
    )


def _within(limit: float | None, value: float | None) -> bool:
    return limit is None or (value is not None and value <= limit)


def _seconds(
    here: Gateway, spec: JobSpec, told: TeacherEstimate, steps: int
) -> tuple[float | None, float | None, list[str]]:
    """For assembling and for training, and what each rests on."""
    basis = []
    assembling, training = None if told.asked else 0.0, None
    pace = timings.tokens_per_second(here.shared.counters.read())
    if pace and told.asked and told.completion_tokens is not None:
        assembling = round(told.completion_tokens / pace, 1)
        basis.append(f"teachers wrote {pace:.1f} tokens/s for the jobs so far")
    like, per_step = timings.seconds_per_step(here.jobs, spec)
    if like:
        training = round(steps * per_step, 1)
        basis.append(f"{like} jobs with this model, method and batch size took so long a step")
    return assembling, training, basis
