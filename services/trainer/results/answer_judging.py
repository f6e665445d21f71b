"""A judge of a finished student's outputs, with their answers in sight, and whether it helps."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qcrd.method.evaluation import sampled_answers
from qcrd.method.evaluation.sampled_answers import SampledAnswers
from qcrd.method.evaluation.statistics import compare_methods
from qcrd.method.judge.model import JudgeBackend
from qcrd.records.rationales import Prediction, Question
from qcrd.records.reports.accuracy import Comparison
from qcrd.records.reports.answering import JudgedAnswers
from services.trainer.data.training_dataset import LabeledQuestions, TrainingDataset
from services.trainer.results.measuring import Asker

MAX_QUESTIONS = 256
"""Training questions whose outputs it is trained on, at most."""
MIN_QUESTIONS = 16
"""Of them, those with right and wrong outputs: of fewer a judge learns nothing."""

Scores = list[list[float]]
"""Of each question's outputs."""


@dataclass(frozen=True)
class AnswerJudgeTraining:
    """The judge's id, and its backend when it is needed."""

    id: str
    make: Callable[[], JudgeBackend]

    def train(self, asker: Asker, dataset: TrainingDataset) -> tuple[JudgedAnswers, Scorer | None]:
        """Train it on outputs for training questions; no scorer where there are too few."""
        count = min(MAX_QUESTIONS, len(dataset.examples))
        chosen = random.Random(f"{asker.schedule.seed}/judged").sample(
            range(len(dataset.examples)), count
        )
        asked = LabeledQuestions(
            tuple(dataset.questions[i] for i in chosen),
            tuple(dataset.examples[i].gold for i in chosen),
            (),
        )
        outputs = asker.sample(asked, "training")
        texts = {question.id: asker.format(question) for question in asked.questions}
        pairs = sampled_answers.make_answer_pairs(texts, outputs, seed=asker.schedule.seed)
        result = JudgedAnswers(judge=self.id, version=1, useful=False, trained_on=len(pairs))
        if len(pairs) < MIN_QUESTIONS:
            reason = (
                f"{len(pairs)} of {len(outputs)} training questions have right and wrong outputs, "
                f"and a judge of answers takes {MIN_QUESTIONS}"
            )
            return result.model_copy(update={"reason": reason}), None
        asker.tell(f"the judge of answers learns from {len(pairs)} training questions")
        backend = self.make()
        health = backend.pretrain(pairs)
        return result.model_copy(update={"health": health}), Scorer(asker, backend)


@dataclass(frozen=True)
class Scorer:
    """Scores outputs, as texts with their answers, by a trained judge."""

    asker: Asker
    judge: JudgeBackend

    def score(self, questions: Sequence[Question], samples: SampledAnswers) -> Scores:
        flat = self.judge.score(
            [
                (self.asker.format(question), output.text)
                for question, outputs in zip(questions, samples, strict=True)
                for output in outputs
            ]
        )
        places = iter(flat)
        return [[next(places) for _ in outputs] for outputs in samples]


def check_usefulness(
    judged: JudgedAnswers,
    samples: SampledAnswers,
    scores: Scores,
    greedy: tuple[str, Sequence[Prediction]],
    *,
    seed: int,
) -> JudgedAnswers:
    """`judged` with whether its best of validation `samples` is above their vote and above the
    `greedy` answers, each by a paired 95 % interval."""
    best = [p.right for p in sampled_answers.choose_best(samples, scores)]
    name, predictions = greedy
    rivals = {
        "vote": [p.right for p in sampled_answers.choose_by_vote(samples)],
        name: [p.right for p in predictions],
    }
    comparisons = tuple(
        compare_methods(("best_of", best), rival, seed=seed) for rival in rivals.items()
    )
    lacking = [_tell(one) for one in comparisons if one.low <= 0]
    reason = (
        f"on {len(best)} validation questions its best of {len(samples[0])} is not shown to be "
        f"above {' nor above '.join(lacking)}"
    )
    update = {
        "validation": comparisons,
        "useful": not lacking,
        "reason": reason if lacking else None,
    }
    return judged.model_copy(update=update)


def _tell(one: Comparison) -> str:
    names = {"vote": "their vote", "greedy": "the greedy answer"}
    name = names.get(one.baseline, one.baseline)
    return f"{name} ({one.difference:+.3f} [{one.low:+.3f}, {one.high:+.3f}])"
