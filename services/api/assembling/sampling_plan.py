"""What a spec asks of its teacher: whether at all, how often, and under which conditions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Self

from qcrd.records.rationales import Question
from qcrd.records.spec import Baseline, JobSpec, MethodName, RationaleSpec
from qcrd.runtime.keys import digest


def needs_outputs(spec: JobSpec) -> bool:
    """Whether any part of the job reads rationales or votes. Plain finetuning does not."""
    without = {Baseline.FINETUNE, Baseline.FINETUNE_EQUAL_COMPUTE}
    return (
        spec.method is not MethodName.FINETUNE
        or bool(set(spec.settings.baselines) - without)
        or spec.settings.label_mode == "llm"
    )


def asks_teacher(spec: JobSpec) -> bool:
    return needs_outputs(spec) and spec.settings.rationales.import_file is None


@dataclass(frozen=True)
class Sampling:
    """How a generation is drawn. `temperature` 0 is greedy: all samples of a prompt are equal."""

    temperature: float
    top_p: float | None
    max_new_tokens: int
    stop: tuple[str, ...]

    @classmethod
    def of(cls, spec: RationaleSpec) -> Self:
        return cls(spec.temperature, spec.top_p, spec.max_new_tokens, spec.stop)

    @property
    def fingerprint(self) -> str:
        drawn = (repr(self.temperature), repr(self.top_p), str(self.max_new_tokens))
        return digest(*drawn, *self.stop)

    def samples(self, wanted: int) -> int:
        """How many of `wanted` samples per prompt can differ."""
        return wanted if self.temperature > 0 else min(wanted, 1)


def asked(
    spec: RationaleSpec, training: Iterable[Question], test: Iterable[Question]
) -> Iterator[tuple[Question, int]]:
    """Each question once with how many samples of it are wanted; one that is in both files is asked
    as often as in training."""
    samples, trained_on = Sampling.of(spec).samples, set[str]()
    for question in training:
        trained_on.add(question.id)
        yield question, samples(spec.n)
    for question in test:
        if question.id not in trained_on:
            yield question, samples(spec.test_samples)


@dataclass(frozen=True)
class Wanted:
    """One sample of one prompt. Its seed is a digest: asked again, it is the same sample."""

    prompt: str
    index: int

    @property
    def key(self) -> str:
        return digest(self.prompt, str(self.index))

    @property
    def seed(self) -> int:
        """31 bits: llama.cpp reads the highest 32-bit seed as "any"."""
        return int(digest("seed", self.key), 16) % 2**31
