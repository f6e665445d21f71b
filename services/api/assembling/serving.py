"""What answering took of a teacher: its seconds per request, and its test questions' tokens."""

from __future__ import annotations

import math
from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from qcrd.records.reports.serving import AnswerTimes, TeacherServing
from services.api.assembling.generation_cache import Generation
from services.api.assembling.sampling_plan import SampleRequest
from services.api.assembling.tokens.token_account import Tokens
from services.api.settings import TeacherConfig

TIMED = ((1, 8), (8, 16))
"""Requests at once, and how many of them."""
MAX_SAMPLES = 1000
"""Above the most outputs of a question that a spec may want."""


class AnswerTimer:
    """Takes down each answered request: eight bytes of memory each."""

    def __init__(self) -> None:
        self._seconds = array("d")
        self._samples = 0
        self._first, self._last = math.inf, -math.inf

    def add(self, started: float, ended: float, samples: int) -> None:
        """A request of that many samples, by the clock of the event loop."""
        self._seconds.append(ended - started)
        self._samples += samples
        self._first, self._last = min(self._first, started), max(self._last, ended)

    def make_times(self, concurrency: int) -> AnswerTimes | None:
        """None without a request."""
        if not self._seconds:
            return None
        per_second = self._samples / max(1e-9, self._last - self._first)
        return AnswerTimes.measure(self._seconds, concurrency=concurrency, per_second=per_second)


Ask = Callable[[Sequence[SampleRequest], int, AnswerTimer], Awaitable[None]]
"""Asks for these samples, so many at once, and takes down how long each took."""


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
        await ask(anew, concurrency, timer)
        found.append(timer.make_times(concurrency))
    return tuple(times for times in found if times is not None)


def make_serving(
    timer: AnswerTimer,
    teacher: TeacherConfig,
    answered: Sequence[Sequence[Generation]],
    training: Sequence[Generation],
    timed: tuple[AnswerTimes, ...] = (),
) -> TeacherServing:
    """`answered` has the outputs of each test question, of which those without any are not counted;
    `training` those of all training questions."""
    outputs = [output for outputs in answered for output in outputs]
    tokens = _sum_tokens(outputs)
    cost = tokens.compute_cost(teacher) if outputs else None
    return TeacherServing(
        times=timer.make_times(teacher.concurrency),
        timed=timed,
        questions=sum(map(bool, answered)),
        prompt_tokens=tokens.prompt,
        completion_tokens=tokens.completion,
        cost=cost,
        outputs_cost=(tokens + _sum_tokens(training)).compute_cost(teacher),
        currency=None if cost is None else teacher.currency,
    )


def _sum_tokens(outputs: Sequence[Generation]) -> Tokens:
    return Tokens(
        sum(output.prompt_tokens for output in outputs),
        sum(output.completion_tokens for output in outputs),
    )
