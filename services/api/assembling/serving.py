"""What answering took of a teacher: its seconds per request, and its test questions' tokens."""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

from qcrd.records.reports.serving import AnswerTimes, TeacherServing
from services.api.assembling.sampling_plan import (
    PromptRequest,
    SampleRequest,
    group_by_prompt,
)
from services.api.assembling.spill.outputs import OutputSums
from services.api.assembling.tokens.token_sums import Tokens
from services.api.settings import TeacherConfig

TIMED = ((1, 8), (8, 16))
"""Requests at once, and how many of them."""
MAX_TIMED_SAMPLES = max(count for _, count in TIMED)
"""Of which more would not be used."""
MAX_SAMPLES = 1000
"""Above the most outputs of a question that a spec may want."""


MAX_KEPT_TIMES = 20_000
"""Drawn at random of all: a percentile of so many is within half a percent of the rank."""


class AnswerTimer:
    """Takes down each answered request; the percentiles of many are those of a sample of them."""

    def __init__(self) -> None:
        self._seconds = array("d")
        self._requests = 0
        self._random = random.Random(0)
        self._samples = 0
        self._first, self._last = math.inf, -math.inf

    def add(self, started: float, ended: float, samples: int) -> None:
        """A request of that many samples, by the clock of the event loop."""
        self._requests += 1
        if len(self._seconds) < MAX_KEPT_TIMES:
            self._seconds.append(ended - started)
        elif (place := self._random.randrange(self._requests)) < MAX_KEPT_TIMES:
            self._seconds[place] = ended - started
        self._samples += samples
        self._first, self._last = min(self._first, started), max(self._last, ended)

    def make_times(self, concurrency: int) -> AnswerTimes | None:
        """None without a request."""
        if not self._seconds:
            return None
        per_second = self._samples / max(1e-9, self._last - self._first)
        times = AnswerTimes.measure(self._seconds, concurrency=concurrency, per_second=per_second)
        return times.model_copy(update={"requests": self._requests})


Ask = Callable[[Iterable[PromptRequest], int, AnswerTimer], Awaitable[None]]
"""Makes these requests, so many at once, and takes down how long each took."""


async def time_teacher(ask: Ask, samples: Sequence[SampleRequest]) -> tuple[AnswerTimes, ...]:
    """The times of some of these samples, drawn anew at each concurrency."""
    found = []
    for concurrency, count in TIMED:
        timer = AnswerTimer()
        # Of numbers that no spec draws, and none twice: what was answered before costs no time.
        anew = [
            replace(samples[place % len(samples)], index=MAX_SAMPLES * concurrency + place)
            for place in range(count)
        ]
        await ask(group_by_prompt(anew), concurrency, timer)
        found.append(timer.make_times(concurrency))
    return tuple(times for times in found if times is not None)


def make_serving(
    timer: AnswerTimer,
    teacher: TeacherConfig,
    *,
    answered: int,
    test: OutputSums,
    training: OutputSums,
    timed: tuple[AnswerTimes, ...] = (),
) -> TeacherServing:
    """`answered` test questions have the outputs `test`; `training` are those of all training
    questions."""
    tokens = Tokens(test.prompt_tokens, test.completion_tokens)
    all_tokens = tokens + Tokens(training.prompt_tokens, training.completion_tokens)
    cost = tokens.compute_cost(teacher) if test.outputs else None
    return TeacherServing(
        times=timer.make_times(teacher.concurrency),
        timed=timed,
        questions=answered,
        prompt_tokens=tokens.prompt,
        completion_tokens=tokens.completion,
        cost=cost,
        outputs_cost=all_tokens.compute_cost(teacher),
        currency=None if cost is None else teacher.currency,
    )
