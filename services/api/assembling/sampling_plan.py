"""The teacher requests that a spec needs: whether any, how many, and with which sampling."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Self

from qcrd.records.rationales import Question
from qcrd.records.specs.rationale_spec import DEFAULT_STOP, RationaleSpec
from qcrd.records.specs.spec import Baseline, JobSpec, MethodSpec
from qcrd.records.teachers.prompt import PromptStyle, TeacherPrompt
from qcrd.runtime.keys import digest


def needs_teacher_outputs(spec: JobSpec) -> bool:
    """Whether any part of the job reads rationales or votes."""
    rows = (spec.method.value, *spec.settings.baselines)
    return any(reads_outputs(row, spec.settings) for row in rows)


def reads_outputs(method: str, settings: MethodSpec) -> bool:
    """Whether the method reads rationales or votes. Plain finetuning on gold labels does not."""
    label_only = {Baseline.FINETUNE, Baseline.FINETUNE_EQUAL_COMPUTE}
    return method not in label_only or settings.label_mode == "llm"


def asks_teacher(spec: JobSpec) -> bool:
    return needs_teacher_outputs(spec) and spec.settings.rationales.import_file is None


@dataclass(frozen=True)
class SamplingParams:
    """Parameters of sampling. `temperature` 0 is greedy: all samples of a prompt are equal."""

    temperature: float
    top_p: float | None
    max_new_tokens: int
    stop: tuple[str, ...]

    @classmethod
    def from_spec(cls, spec: RationaleSpec, style: PromptStyle = "completion") -> Self:
        """A chat ends by itself, and has blank lines in it: the default stop is not for it."""
        ends_itself = style == "chat" and spec.stop == DEFAULT_STOP
        return cls(
            spec.temperature, spec.top_p, spec.max_new_tokens, () if ends_itself else spec.stop
        )

    @property
    def fingerprint(self) -> str:
        parts = (repr(self.temperature), repr(self.top_p), str(self.max_new_tokens))
        return digest(*parts, *self.stop)

    def count_distinct_samples(self, requested: int) -> int:
        """The number of `requested` samples per prompt that can differ."""
        return requested if self.temperature > 0 else min(requested, 1)


def count_samples(spec: RationaleSpec) -> tuple[int, int]:
    """Of a training question, and of a test question that is not one."""
    count = SamplingParams.from_spec(spec).count_distinct_samples
    return count(spec.n), count(spec.test_samples)


def iter_sample_counts(
    spec: RationaleSpec, training: Iterable[Question], test: Iterable[Question]
) -> Iterator[tuple[Question, int]]:
    """Each question once with its number of samples; one that is in both files gets that of
    training."""
    (of_training, of_test), training_ids = count_samples(spec), set[str]()
    for question in training:
        training_ids.add(question.id)
        yield question, of_training
    for question in test:
        if question.id not in training_ids:
            yield question, of_test


@dataclass(frozen=True)
class SampleRequest:
    """One sample of one prompt, which a repeated request draws again, whatever others are asked for
    with it."""

    prompt: TeacherPrompt
    index: int

    @property
    def key(self) -> str:
        return self._digest([each for each in (self.prompt.grammar, self.prompt.schema) if each])

    @property
    def free_key(self) -> str:
        """Of the same sample when nothing held it to a form, as before there were grammars."""
        return self._digest(())

    def _digest(self, held_to: Sequence[str]) -> str:
        prompt = self.prompt
        parts = [part for message in prompt.messages for part in message] or [prompt.text]
        return digest(*parts, *held_to, str(self.index))

    @property
    def seed(self) -> int:
        """The prompt's, a digest, and the samples' follow it as servers draw the choices of one
        request. Far below the highest of 32 bits, which llama.cpp reads as "any"."""
        first = replace(self, index=0)
        return int(digest("seed", first.key), 16) % 2**31 + self.index


@dataclass(frozen=True)
class PromptRequest:
    """Samples of one prompt that are asked for together, so that it is paid for once; their indices
    follow each other, as the seeds of choices do."""

    samples: tuple[SampleRequest, ...]

    @property
    def prompt(self) -> TeacherPrompt:
        return self.samples[0].prompt

    @property
    def seed(self) -> int:
        return self.samples[0].seed

    def split(self, size: int) -> list[PromptRequest]:
        starts = range(0, len(self.samples), size)
        return [PromptRequest(self.samples[start : start + size]) for start in starts]


def group_by_prompt(samples: Iterable[SampleRequest]) -> Iterator[PromptRequest]:
    """Samples of a prompt stand together in a plan; where some between them are there already, they
    are two requests."""

    def get_run(numbered: tuple[int, SampleRequest]) -> tuple[TeacherPrompt, int]:
        number, sample = numbered
        return sample.prompt, sample.index - number

    for _, group in groupby(enumerate(samples), get_run):
        yield PromptRequest(tuple(sample for _, sample in group))
