"""Chooses a student's answer among its outputs, and says how sure it is of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qcrd.method.answers import canonical
from qcrd.method.self_consistency import majority_vote
from qcrd.records.rationales import Question
from qcrd.records.specs.task import TaskSpec
from qcrd.records.students.confidence import (
    Confidence,
    compute_vote_features,
    sum_answer_logprobs,
)
from qcrd.records.students.prompt_format import AnswerJudge, PromptFormat
from services.teacher.engines.base import Token
from services.teacher.inference.results import GenerationResult
from services.teacher.inference.wire import JSON
from services.teacher.students.judge_client import JudgeClient
from services.teacher.students.prompting import ChoiceRequests


@dataclass(frozen=True)
class ChosenAnswer:
    """The output that is the answer, and what is told of it beside its message. `rationale`: the
    output that explains it, of a student that does so apart; `others` were not chosen."""

    result: GenerationResult
    details: JSON
    rationale: GenerationResult | None = None
    others: tuple[GenerationResult, ...] = ()

    @property
    def all_results(self) -> list[GenerationResult]:
        rationales = () if self.rationale is None else (self.rationale,)
        return [self.result, *rationales, *self.others]


class AnswerChooser:
    """Of one student."""

    def __init__(self, prompt_format: PromptFormat, judge: JudgeClient) -> None:
        self.prompt_format = prompt_format
        self._judge = judge
        answer = prompt_format.answer
        labels = prompt_format.labels
        self._task = TaskSpec() if answer is None else TaskSpec(answer=answer, labels=labels)

    def describe_doubt(self, choice: ChoiceRequests, tokens: Sequence[Token]) -> JSON:
        """How sure the student is of a single output; nothing of one that is not as it was
        measured."""
        confidence = self.prompt_format.confidence
        if confidence is None or not choice.is_as_measured:
            return {}
        value = confidence.compute_single(_sum_answer(tokens, confidence))
        return _describe(value, confidence)

    async def choose(
        self, choice: ChoiceRequests, results: Sequence[GenerationResult]
    ) -> ChosenAnswer:
        """Among the outputs of one choice. Raises `JudgeUnavailable`."""
        selection, calibrated = choice.selection, self.prompt_format.vote_confidence
        assert selection is not None
        answers = [self._read_answer(choice.question, result.text) for result in results]
        is_best_of = selection.kind == "best_of"
        judge = self.prompt_format.judge
        needs_scores = is_best_of or (calibrated is not None and "score" in calibrated.weights)
        scores = await self._score(judge, choice.question, results) if needs_scores else None
        if is_best_of and scores is not None:
            place = max(range(len(results)), key=lambda i: (scores[i], -i))
            details: JSON = {"score": scores[place]}
        else:
            vote = majority_vote(answers, salt=choice.question)
            place = answers.index(vote.answer)
            counts = vote.counts | ({"": vote.unparseable} if vote.unparseable else {})
            details = {"vote": counts, **self._describe_vote(results, answers, place, scores)}
        others = (*results[:place], *results[place + 1 :])
        return ChosenAnswer(results[place], details, others=others)

    def _describe_vote(
        self,
        results: Sequence[GenerationResult],
        answers: Sequence[str | None],
        place: int,
        scores: Sequence[float] | None,
    ) -> JSON:
        """Nothing of a vote unlike those that were measured."""
        calibrated = self.prompt_format.vote_confidence
        if calibrated is None or len(results) != calibrated.samples:
            return {}
        if results[place].request.sampling.temperature != calibrated.temperature:
            return {}
        if answers[place] is None:
            return {"confidence": 0.0}
        winners = [
            (_sum_answer(result.tokens, calibrated), None if scores is None else scores[i])
            for i, result in enumerate(results)
            if answers[i] == answers[place]
        ]
        return {"confidence": calibrated.compute(compute_vote_features(winners, len(results)))}

    async def _score(
        self, judge: AnswerJudge | None, question: str, results: Sequence[GenerationResult]
    ) -> list[float]:
        assert judge is not None
        return await self._judge.score(judge, question, [result.text.strip() for result in results])

    def _read_answer(self, question: str, output: str) -> str | None:
        label = self.prompt_format.split_output(output)[1]
        return canonical(label, self._task, Question(id="", text=question))


def _sum_answer(tokens: Sequence[Token], confidence: Confidence) -> float | None:
    """The log-probability of the answer, freely; None where there is none."""
    logprobs = [token.free_logprob for token in tokens]
    if any(value is None for value in logprobs):
        return None
    known = [value for value in logprobs if value is not None]
    return sum_answer_logprobs([token.id for token in tokens], known, confidence.mark)


def _describe(value: float, confidence: Confidence) -> JSON:
    """With whether the question should go to the student's teacher, where it has one to ask."""
    fallback = confidence.fallback
    escalate = {} if fallback is None else {"escalate": value < fallback.threshold}
    return {"confidence": value, **escalate}
