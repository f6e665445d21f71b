"""Diagnostics of a run: its negatives, the judge's scores, the chosen positives.

They do not influence training, and their work is not counted as the method's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from benchmarks.ladder.data import LadderData
from qcrd.method.answers import parse_output
from qcrd.method.judge.health import auc
from qcrd.method.judge.model import Judge, LocalJudge
from qcrd.method.judge.training_pairs import QuestionRationale, TrainingPair
from qcrd.method.prompts import EXPLAIN_PREFIX
from qcrd.method.student.base import Student
from qcrd.method.student.targets import Target
from qcrd.method.training.training_example import TrainingExample
from qcrd.records.specs.task import AnswerKind, TaskSpec
from qcrd.records.specs.training_spec import JudgeSpec

NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")
MAX_QUESTIONS = 48
"""Questions whose candidates are scored again: enough to estimate a share, in a second or two."""


class ObservedJudge(LocalJudge):
    """The judge of a run; `observations` has the measurements of each iteration."""

    def __init__(
        self, judge: Judge, spec: JudgeSpec, material: LadderData, task: TaskSpec, *, seed: int
    ) -> None:
        super().__init__(judge, spec, seed=seed)
        self._lessons = {lesson.text: lesson for lesson in material.lessons}
        self._questions = material.questions
        self._unused_examples = material.others
        self._task = task
        self.observations: list[dict[str, Any]] = []

    def update(
        self, iteration: int, training_pairs: Sequence[TrainingPair], *, weight: float
    ) -> dict[str, float]:
        # Before the update, as the judge has not seen these samples yet.
        flops_before = self.flops
        self.observations.append(self._observe(training_pairs))
        self.flops = flops_before
        return super().update(iteration, training_pairs, weight=weight)

    def _observe(self, training_pairs: Sequence[TrainingPair]) -> dict[str, Any]:
        """Shares over this iteration's samples; AUC per kind of negative."""
        samples = [
            (self._lessons[c.question], text) for c in training_pairs for text in c.negatives
        ]
        parsed = [(lesson, self._parse_answer(lesson, text)) for lesson, text in samples]
        answers = [(lesson, answer) for lesson, answer in parsed if answer is not None]
        positives = [
            (self._lessons[c.question], text) for c in training_pairs for text in c.positives
        ]
        return {
            "samples": len(samples),
            "parsed": len(answers),
            "right": sum(answer == lesson.gold for lesson, answer in answers),
            "names_gold": sum(self._contains_gold(lesson, text) for lesson, text in samples),
            "positives": len(positives),
            "positives_name_gold": sum(
                self._contains_gold(lesson, text) for lesson, text in positives
            ),
            "auc": self._measure_aucs(training_pairs),
            "examples": [text[:160] for _, text in samples[:3]],
        }

    def _measure_aucs(self, contrasts: Sequence[TrainingPair]) -> dict[str, float | None]:
        """Right teacher rationales of questions that are new to the judge, against wrong ones of
        such questions, and against this iteration's samples."""
        right: list[QuestionRationale] = []
        wrong: list[QuestionRationale] = []
        for lesson in self._unused_examples:
            for r in (*lesson.positives, *lesson.negatives):
                (right if r.answer == lesson.gold else wrong).append((lesson.text, r.text))
        pairs = {
            "right": right,
            "wrong": wrong,
            "sampled": [(c.question, text) for c in contrasts for text in c.negatives],
        }
        scores = {name: self.score(own) for name, own in pairs.items()}
        return {
            "against_samples": auc(scores["right"], scores["sampled"]),
            "against_wrong_teacher": auc(scores["right"], scores["wrong"]),
            **{f"n_{name}": len(found) for name, found in scores.items()},
            **{f"mean_{name}": sum(s) / len(s) if s else None for name, s in scores.items()},
        }

    def _parse_answer(self, lesson: TrainingExample, text: str) -> str | None:
        parsed = parse_output(text, self._task, self._questions[lesson.id])
        return parsed.answer if parsed else None

    def _contains_gold(self, lesson: TrainingExample, text: str) -> bool:
        """Whether the text contains the gold answer."""
        if self._task.answer is AnswerKind.NUMBER:
            return lesson.gold in {n.replace(",", "") for n in NUMBER.findall(text)}
        if self._task.answer is AnswerKind.LABEL:
            return f"({lesson.gold})" in text
        return lesson.gold.casefold() in text.casefold()


def measure_picks(student: Student, lessons: Sequence[TrainingExample]) -> dict[str, float]:
    """The positive that `min_max` chooses among several, under the trained student.

    `margin` is the mean difference of cross entropy between the worst and the best, in nats.
    """
    examples = [lesson for lesson in lessons if len(lesson.positives) > 1][:MAX_QUESTIONS]
    if not examples:
        return {}
    flops_before = student.flops
    first = shortest = 0
    margin = lowest = 0.0
    for lesson in examples:
        texts = [r.text for r in lesson.positives]
        targets = [Target(text) for text in texts]
        ce = student.mean_cross_entropy(
            [EXPLAIN_PREFIX + lesson.text], [0] * len(texts), targets
        ).tolist()
        index = ce.index(min(ce))
        first += index == 0
        shortest += len(texts[index]) == min(map(len, texts))
        margin += max(ce) - min(ce)
        lowest += min(ce)
    student.flops = flops_before
    n = len(examples)
    return {
        "questions": n,
        "first": first / n,
        "shortest": shortest / n,
        "margin": margin / n,
        "lowest": lowest / n,
    }
