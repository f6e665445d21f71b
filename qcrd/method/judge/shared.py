"""The judge of all ranks: the main rank's, whose results all of them get."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from qcrd.method.distributed.ranks import Json, Ranks
from qcrd.method.judge.model import JudgeBackend
from qcrd.method.judge.training_pairs import QuestionRationale, TrainingPair
from qcrd.records.job import JudgeHistograms


class SharedJudge:
    """`judge`, which only the main rank has, for every rank: each asks for the same at once."""

    def __init__(self, judge: JudgeBackend | None, ranks: Ranks) -> None:
        self._judge = judge
        self._ranks = ranks
        self._flops = 0.0
        self.histograms: JudgeHistograms | None = None

    @property
    def flops(self) -> float:
        """Of the main rank's judge, as of the last call."""
        return self._flops

    @flops.setter
    def flops(self, value: float) -> None:
        self._flops = value
        if self._judge is not None:
            self._judge.flops = value

    @property
    def oldest_version(self) -> int:
        return 0 if self._judge is None else self._judge.oldest_version

    @oldest_version.setter
    def oldest_version(self, version: int) -> None:
        if self._judge is not None:
            self._judge.oldest_version = version

    def pretrain(self, training_pairs: Sequence[TrainingPair]) -> dict[str, float]:
        metrics: dict[str, float] = self._ask(lambda judge: judge.pretrain(training_pairs))
        return metrics

    def update(
        self, iteration: int, training_pairs: Sequence[TrainingPair], *, weight: float
    ) -> dict[str, float]:
        metrics: dict[str, float] = self._ask(
            lambda judge: judge.update(iteration, training_pairs, weight=weight)
        )
        return metrics

    def score(self, pairs: Sequence[QuestionRationale]) -> list[float]:
        scores: list[float] = self._ask(lambda judge: judge.score(pairs))
        return scores

    def _ask(self, call: Callable[[JudgeBackend], Json]) -> Json:
        def work() -> Json:
            assert self._judge is not None
            result = call(self._judge)
            histograms = self._judge.histograms
            return [result, self._judge.flops, histograms and histograms.model_dump(mode="json")]

        result, self._flops, histograms = self._ranks.run_on_main(work)
        self.histograms = histograms and JudgeHistograms.model_validate(histograms)
        return result
