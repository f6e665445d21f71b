"""Sample filter: which of the student's samples are negatives, and how many were what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from qcrd.method.answers import parse_output
from qcrd.method.training.step_loss import TrainingExample
from qcrd.records.rationales import Question, Rationale
from qcrd.records.specs.spec import MethodSpec
from qcrd.records.specs.task import TaskSpec

SampledRationales = dict[str, tuple[Rationale, ...]]
"""Question id -> the earlier student's rationales."""


class SampleKind(StrEnum):
    """What a sample is, by the first that holds."""

    REPEATED = "repeated"
    """Equal to a positive: pushing it away would undo what was learned."""
    CUT = "cut"
    UNREAD = "unread"
    """Without an answer that the task's parser reads."""
    RIGHT = "right"
    WRONG = "wrong"


@dataclass(frozen=True)
class FilteredSamples:
    """The samples that are negatives, with their answers, and how many of all were of each kind."""

    kept: SampledRationales
    counts: Counter[SampleKind] = field(default_factory=Counter)


class SampleFilter:
    """Sorts samples by `negatives.filter`. `answers_expected`: most positives end in an answer
    that can be read, so a sample without one is no use as one of them."""

    def __init__(self, spec: MethodSpec, examples: Sequence[TrainingExample]) -> None:
        self._task: TaskSpec = spec.task
        self._wrong_only = spec.negatives.filter == "wrong_only"
        positives = [(e, r) for e in examples for r in e.positives[:1]][:MAX_PROBED]
        read = sum(self._read_answer(e, r.text) is not None for e, r in positives)
        self.answers_expected = 2 * read > len(positives)

    def apply(
        self, examples: Sequence[TrainingExample], samples: Mapping[str, Sequence[Rationale]]
    ) -> FilteredSamples:
        """The negatives among `samples`."""
        counts: Counter[SampleKind] = Counter()
        kept: SampledRationales = {}
        for example in examples:
            own = []
            for sample in samples.get(example.id, ()):
                answer = self._read_answer(example, sample.text)
                kind = _find_kind(example, sample, answer)
                counts[kind] += 1
                if self._is_negative(kind):
                    own.append(replace_answer(sample, answer))
            kept[example.id] = tuple(own)
        return FilteredSamples(kept, counts)

    @property
    def drops_all(self) -> bool:
        """Whether hardly any sample can be kept: a student learns to write what its positives are,
        and those end in no answer to go by."""
        return self._wrong_only and not self.answers_expected

    def keep_own(self, example: TrainingExample) -> tuple[Rationale, ...]:
        """The example's own negatives that are some: a teacher's minority may be right."""
        if not self._wrong_only:
            return example.negatives
        return tuple(r for r in example.negatives if r.answer not in (None, example.gold))

    def is_usable(self, sample: Rationale) -> bool:
        """Whether a sample that was kept is what a negative should be: whole, and with an answer
        where those of this task have one."""
        return not sample.is_cut and (sample.answer is not None or not self.answers_expected)

    def _is_negative(self, kind: SampleKind) -> bool:
        if self._wrong_only:
            return kind is SampleKind.WRONG
        return kind is not SampleKind.REPEATED

    def _read_answer(self, example: TrainingExample, text: str) -> str | None:
        question = Question(id=example.id, text=example.text, choices=example.choices)
        found = parse_output(text, self._task, question)
        return None if found is None else found.answer


MAX_PROBED = 64
"""Questions whose first positive says whether this task's rationales end in an answer."""


def _find_kind(example: TrainingExample, sample: Rationale, answer: str | None) -> SampleKind:
    if sample.text in {positive.text for positive in example.positives}:
        return SampleKind.REPEATED
    if sample.is_cut:
        return SampleKind.CUT
    if answer is None:
        return SampleKind.UNREAD
    return SampleKind.RIGHT if answer == example.gold else SampleKind.WRONG


def replace_answer(sample: Rationale, answer: str | None) -> Rationale:
    return sample if answer is None else sample.model_copy(update={"answer": answer})
