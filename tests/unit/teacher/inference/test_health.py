"""When an engine is healthy, by a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

import pytest

from services.teacher.engines.base import (
    Conversation,
    EngineInfo,
    Grammar,
    SimpleToken,
    Token,
    ValidGenerateRequest,
)
from services.teacher.errors import GenerationFailed
from services.teacher.inference.health import EngineHealth
from services.teacher.metrics.batches import BatchMetrics


@dataclass
class Counting:
    """Counts what it is asked for; `broken` makes it fail."""

    info: EngineInfo = field(default_factory=lambda: EngineInfo("counting", "test", 63, 64))
    batch_metrics: BatchMetrics = field(default_factory=BatchMetrics)
    generated: int = 0
    broken: bool = False

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def tokenize(
        self, text: str, *, add_special_tokens: bool = True
    ) -> Sequence[SimpleToken] | None:
        return None

    async def apply_chat_template(self, conversation: Conversation) -> str | None:
        return None

    async def score_prompt(self, request: ValidGenerateRequest) -> Sequence[Token]:
        return ()

    async def check_grammar(self, grammar: Grammar) -> None: ...

    async def submit(self, request: ValidGenerateRequest) -> AsyncGenerator[Token, None]:
        self.generated += 1
        if self.broken:
            raise GenerationFailed("broken")
        yield Token(1, "x", finish_reason="length")


@dataclass
class Paid(Counting):
    """Stands before another server."""

    reached: int = 0

    async def check_reachable(self) -> bool:
        self.reached += 1
        return not self.broken


@dataclass
class Reading(Counting):
    prefilled_tokens: int = 0


class Here:
    def __init__(self, engine: Counting) -> None:
        self.now = 1_000.0
        self.engine = engine
        self.health = EngineHealth(engine, stall_seconds=30, clock=lambda: self.now)

    def check(self, after: float = 0.0) -> bool:
        self.now += after
        return asyncio.run(self.health.check())


def test_idle_it_makes_one_token_at_most_every_minute() -> None:
    here = Here(Counting())
    assert [here.check(after=10) for _ in range(5)] == [True] * 5
    assert here.engine.generated == 0
    assert here.check(after=10)
    assert [here.check(after=10) for _ in range(5)] == [True] * 5
    assert here.engine.generated == 1
    here.check(after=10)
    assert here.engine.generated == 2


def test_an_idle_engine_that_has_broken_is_found_out() -> None:
    here = Here(Counting(broken=True))
    assert here.check(after=59)
    assert not here.check(after=1)
    here.engine.broken = False
    assert here.check()


def test_what_is_paid_for_is_only_asked_whether_it_is_there() -> None:
    engine = Paid()
    here = Here(engine)
    assert here.check(after=60)
    here.health.mark_failure()
    assert here.check()
    assert (engine.generated, engine.reached) == (0, 2)
    engine.broken = True
    assert not here.check(after=60)


def test_work_without_a_token_for_half_a_minute_is_ill_health() -> None:
    here = Here(Counting())
    with here.health.generation.track():
        assert here.check(after=30)
        assert not here.check(after=1)
        here.health.mark_token()
        assert here.check(after=30)
        with here.health.generation.track():
            assert not here.check(after=1)
    assert here.check()
    assert here.engine.generated == 0


def test_prompts_that_wait_for_the_tokenizer_are_ill_health_while_others_get_their_tokens() -> None:
    """Its pool has no free connection; the engine still writes what it has begun."""
    here = Here(Counting())
    with here.health.generation.track(), here.health.validation.track():
        for _ in range(3):
            here.now += 10
            here.health.mark_token()
        assert here.check()
        here.health.mark_token()
        assert not here.check(after=1)


def test_a_prompt_that_is_being_read_is_progress() -> None:
    engine = Reading()
    here = Here(engine)
    with here.health.generation.track():
        for _ in range(4):
            engine.prefilled_tokens += 100
            assert here.check(after=25)
        assert here.check(after=25)
        assert not here.check(after=25)


@pytest.mark.parametrize("answered", [True, False])
def test_after_a_failure_an_answer_or_a_probe_has_to_come(answered: bool) -> None:
    here = Here(Counting(broken=True))
    here.health.mark_failure()
    assert not here.check()
    here.engine.broken = False
    if answered:
        here.health.mark_finished()
    probes = here.engine.generated
    assert here.check()
    assert here.engine.generated == probes + (not answered)
