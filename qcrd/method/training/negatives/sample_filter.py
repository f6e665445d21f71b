"""Sample filter: which of the student's samples are negatives, and how many were what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice

from qcrd.method.answers import canonical, parse_output
from qcrd.method.training.training_example import TrainingExample
from qcrd.records.rationales import Question, Rationale
from qcrd.records.specs.spec import MethodSpec
from qcrd.records.specs.task import TaskSpec
from qcrd.records.students.prompt_format import split_joined_output

SampledRationales = dict[str, tuple[Rationale, ...]]
"""Question id -> the earlier student's rationales."""


class SampleKind(StrEnum):
    """What a sample is, by the first that holds."""

    REPEATED = "repeated"
    """Equal to a positive: pushing it away would undo what was learned."""
    CUT = "cut"
    UNREAD = "unread"
    """Without an answer that the task's parser reads, or without a rationale before it."""
    RIGHT = "right"
    WRONG = "wrong"
    UNSURE = "unsure"
    """With another answer than a vote that was not clear."""


@dataclass(frozen=True)
class FilteredSamples:
    """The samples that are used, with their answers, and how many of all were of each kind."""

    kept: SampledRationales
    counts: Counter[SampleKind] = field(default_factory=Counter)

    def count_not_right(self) -> int:
        """Samples that would be negatives if they were whole and had an answer."""
        return sum(
            self.counts[kind] for kind in (SampleKind.CUT, SampleKind.UNREAD, SampleKind.WRONG)
        )


class SampleFilter:
    """Sorts samples by `negatives.filter`. `reasons`: a sample is a rationale and its answer, of
    which the rationale is used. `answers_expected`: most positives end in an answer that can be
    read, or all samples do, so a sample without one is no use as one of them."""

    def __init__(
        self, spec: MethodSpec, examples: Sequence[TrainingExample], *, reasons: bool = False
    ) -> None:
        self._task: TaskSpec = spec.task
        self._reasons = reasons
        self._wrong_only = reasons or spec.negatives.filter == "wrong_only"
        self._keeps_right = self._wrong_only and spec.negatives.keep_right
        self._repeats_count = spec.positives.source == "teacher"
        positives = list(islice(((e, r) for e in examples for r in e.positives[:1]), MAX_PROBED))
        read = sum(self._read(e, r.text)[1] is not None for e, r in positives)
        self.answers_expected = reasons or 2 * read > len(positives)

    def apply(
        self, examples: Sequence[TrainingExample], samples: Mapping[str, Sequence[Rationale]]
    ) -> FilteredSamples:
        """The negatives among `samples`, and the positives where right ones are kept."""
        counts: Counter[SampleKind] = Counter()
        kept: SampledRationales = {}
        for example in examples:
            own = []
            for sample in samples.get(example.id, ()):
                text, answer = self._read(example, sample.text)
                known = example.positives if self._repeats_count else ()
                kind = _find_kind(example, known, sample, text, answer)
                counts[kind] += 1
                if self._is_used(kind):
                    own.append(_replace(sample, text, answer))
            kept[example.id] = tuple(own)
        return FilteredSamples(kept, counts)

    @property
    def drops_all(self) -> bool:
        """Whether hardly any sample can be kept: a student learns to write what its positives are,
        and those end in no answer to go by."""
        return self._wrong_only and not self.answers_expected

    def keep_own(self, example: TrainingExample) -> Sequence[Rationale]:
        """The example's own negatives that are some: a teacher's minority may be right."""
        if not self._wrong_only:
            return example.negatives
        if not example.is_sure:
            return ()
        return tuple(r for r in example.negatives if r.answer not in (None, example.gold))

    def split(
        self, example: TrainingExample, samples: Sequence[Rationale]
    ) -> tuple[tuple[Rationale, ...], tuple[Rationale, ...]]:
        """The positives and the negatives among samples that were kept."""
        if not self._keeps_right:
            return (), tuple(samples)
        is_right = [sample.answer == example.gold for sample in samples]
        pairs = list(zip(samples, is_right, strict=True))
        return tuple(s for s, right in pairs if right), tuple(s for s, right in pairs if not right)

    def is_usable(self, sample: Rationale) -> bool:
        """Whether a sample that was kept is what a negative should be: whole, and with an answer
        where those of this task have one."""
        return not sample.is_cut and (sample.answer is not None or not self.answers_expected)

    def _is_used(self, kind: SampleKind) -> bool:
        if self._wrong_only:
            return kind is SampleKind.WRONG or (kind is SampleKind.RIGHT and self._keeps_right)
        return kind is not SampleKind.REPEATED

    def _read(self, example: TrainingExample, text: str) -> tuple[str, str | None]:
        """The rationale of an output and the answer that it ends in."""
        question = Question(id=example.id, text=example.text, choices=example.choices)
        if self._reasons:
            rationale, answer_text = split_joined_output(text)
            answer = canonical(answer_text, self._task, question) if rationale else None
            return rationale or text, answer
        found = parse_output(text, self._task, question)
        return text, None if found is None else found.answer


MAX_PROBED = 64
"""Questions whose first positive says whether this task's rationales end in an answer."""


def _find_kind(
    example: TrainingExample,
    positives: Sequence[Rationale],
    sample: Rationale,
    text: str,
    answer: str | None,
) -> SampleKind:
    if text in {positive.text for positive in positives}:
        return SampleKind.REPEATED
    if sample.is_cut:
        return SampleKind.CUT
    if answer is None:
        return SampleKind.UNREAD
    if answer == example.gold:
        return SampleKind.RIGHT
    return SampleKind.WRONG if example.is_sure else SampleKind.UNSURE


def _replace(sample: Rationale, text: str, answer: str | None) -> Rationale:
    return sample.model_copy(update={"text": text, "answer": answer or sample.answer})
