"""A study's table, from what its runs measured: means over seeds, and paired tests.

Two uncertainties are kept apart. A method's own interval is over seeds (how another run would come
out); the interval of a difference is over test questions (whether other questions would show it),
with the seeds that were run taken as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qcrd.method.evaluation.statistics import DRAWS, mcnemar, over_seeds
from qcrd.records.job import Accuracy
from qcrd.records.study import SeedAccuracy, SeedTest, StudyComparison, StudyRow, StudyTable

BOOTSTRAP_SEED = 0
"""The same runs give the same table, whenever it is asked for."""


@dataclass(frozen=True)
class Run:
    """What one method under one seed measured; the run of a job that did not succeed is left out.

    `questions` are the ids of the test questions in order and `right` says of each whether the
    student's answer was; both are empty without a test file. `test` is None without one.
    """

    method: str
    seed: int
    test: Accuracy | None
    validation: Accuracy | None
    questions: tuple[str, ...] = ()
    right: tuple[bool, ...] = ()


def tabulate(
    methods: Sequence[str],
    seeds: Sequence[int],
    baseline: str,
    runs: Sequence[Run],
    *,
    tested: bool,
    references: Mapping[str, Accuracy] | None = None,
    draws: int = DRAWS,
) -> StudyTable:
    """One row for each of `methods`, those without any run included. `tested`: there is a test
    file, so accuracies are on it; otherwise they are on validation and nothing is compared."""
    of = {m: {r.seed: r for r in runs if r.method == m and r.seed in seeds} for m in methods}
    pairs = {m: _comparable(of[m], of[baseline]) for m in methods if m != baseline}
    comparisons = _compared({m: p for m, p in pairs.items() if p}, draws)
    counts = {len(run.questions) for run in runs if run.questions}
    return StudyTable(
        measured="test" if tested else "validation",
        questions=counts.pop() if len(counts) == 1 else None,
        baseline=baseline,
        rows=tuple(
            _row(m, list(of[m].values()), len(seeds), tested, comparisons.get(m)) for m in methods
        ),
        references=dict(references or {}),
        notes=tuple(_notes(of, pairs, len(seeds), baseline, tested)),
    )


def holm(ps: Sequence[float]) -> list[float]:
    """`ps` corrected for their number, in the same order (Holm 1979).

    The smallest is multiplied by how many there are, the next by one less, and so on; none becomes
    smaller than the one before it, nor larger than 1.
    """
    corrected, least = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda place: ps[place])):
        least = max(least, min(1.0, (len(ps) - rank) * ps[place]))
        corrected[place] = least
    return corrected


@dataclass(frozen=True)
class Difference:
    """Of two accuracies, with its 95 % interval and two-sided p."""

    value: float
    low: float
    high: float
    p: float


def bootstrap(gains: np.ndarray, *, seed: int, draws: int = DRAWS) -> Difference:
    """Paired bootstrap over test questions of a difference that is averaged over seeds.

    `gains` [seeds, questions] is 1 where only the method was right, -1 where only the baseline was,
    0 where they agree. All seeds of a question are drawn together: they share its difficulty. A
    question's sum over seeds is a whole number, so a resample is a draw of their counts. `p` is
    twice the smaller share of resamples on either side of 0, each counted with one more, so that
    it is never 0 (Davison and Hinkley 1997, eq. 4.11).
    """
    seeds, n = gains.shape
    sums, counts = np.unique(gains.sum(axis=0), return_counts=True)
    resampled = np.random.default_rng(seed).multinomial(n, counts / n, size=draws) @ sums
    low, high = np.quantile(resampled, [0.025, 0.975]) / (n * seeds)
    side = min(int((resampled <= 0).sum()), int((resampled >= 0).sum()))
    p = min(1.0, 2 * (side + 1) / (draws + 1))
    return Difference(float(gains.sum()) / (n * seeds), float(low), float(high), p)


Pair = tuple[Run, Run]
"""A method's run and the baseline's, of the same seed and on the same test questions."""


def _comparable(method: Mapping[int, Run], baseline: Mapping[int, Run]) -> list[Pair]:
    pairs = [(method[seed], baseline[seed]) for seed in sorted(method.keys() & baseline.keys())]
    pairs = [(a, b) for a, b in pairs if a.questions and a.questions == b.questions]
    # Resampling a question takes all its seeds, so all must have been asked the same ones.
    return [(a, b) for a, b in pairs if a.questions == pairs[0][0].questions]


def _compared(pairs: Mapping[str, Sequence[Pair]], draws: int) -> dict[str, StudyComparison]:
    """Per method; the corrections run over the methods."""
    gains = {m: np.array([_gains(a, b) for a, b in found]) for m, found in pairs.items()}
    found = {m: bootstrap(gain, seed=BOOTSTRAP_SEED, draws=draws) for m, gain in gains.items()}
    corrected = dict(zip(found, holm([d.p for d in found.values()]), strict=True))
    tests = _seed_tests(pairs)
    return {
        m: StudyComparison(
            seeds=tuple(a.seed for a, _ in pairs[m]),
            n=gains[m].shape[1],
            difference=d.value,
            low=d.low,
            high=d.high,
            p=d.p,
            p_holm=corrected[m],
            draws=draws,
            by_seed=tuple(tests[m]),
        )
        for m, d in found.items()
    }


def _gains(method: Run, baseline: Run) -> list[int]:
    return [int(a) - int(b) for a, b in zip(method.right, baseline.right, strict=True)]


def _seed_tests(pairs: Mapping[str, Sequence[Pair]]) -> dict[str, list[SeedTest]]:
    tests: dict[str, list[SeedTest]] = {method: [] for method in pairs}
    for seed in sorted({a.seed for found in pairs.values() for a, _ in found}):
        here = {m: pair for m, found in pairs.items() for pair in found if pair[0].seed == seed}
        ps = [mcnemar(a.right, b.right) for a, b in here.values()]
        for (m, (a, b)), p, corrected in zip(here.items(), ps, holm(ps), strict=True):
            gains = _gains(a, b)
            tests[m].append(
                SeedTest(
                    seed=seed,
                    only_method=gains.count(1),
                    only_baseline=gains.count(-1),
                    p=p,
                    p_holm=corrected,
                )
            )
    return tests


def _row(
    method: str, runs: Sequence[Run], of: int, tested: bool, comparison: StudyComparison | None
) -> StudyRow:
    shown = {run.seed: run.test if tested else run.validation for run in runs}
    found = {seed: shown_ for seed, shown_ in sorted(shown.items()) if shown_ is not None}
    row = StudyRow(method=method, n=len(runs), of=of, comparison=comparison)
    if not found:
        return row
    measured = list(found.values())
    mean = over_seeds([one.accuracy for one in measured])
    single = len(measured) == 1
    return row.model_copy(
        update={
            "accuracy": mean.value,
            # An accuracy cannot be outside of [0, 1], whatever the t distribution thinks.
            "low": measured[0].low if single else max(0.0, mean.low),
            "high": measured[0].high if single else min(1.0, mean.high),
            "interval": "wilson" if single else "t",
            "by_seed": tuple(
                SeedAccuracy(seed=seed, accuracy=one.accuracy) for seed, one in found.items()
            ),
            "validation": _mean([r.validation for r in runs], lambda a: a.accuracy),
            "steps": _mean(measured, lambda a: a.steps),
            "flops": _mean(measured, lambda a: a.flops),
            "seconds": _mean(measured, lambda a: a.seconds),
        }
    )


def _mean(
    rows: Sequence[Accuracy | None], value: Callable[[Accuracy], float | None]
) -> float | None:
    """Of those that have a value; None when none has."""
    found = [v for row in rows if row is not None and (v := value(row)) is not None]
    return sum(found) / len(found) if found else None


def _notes(
    of: Mapping[str, Mapping[int, Run]],
    pairs: Mapping[str, Sequence[Pair]],
    seeds: int,
    baseline: str,
    tested: bool,
) -> list[str]:
    notes = []
    if not tested:
        notes.append(
            "no test file was given: accuracies are on validation, which also chose the "
            "checkpoints, and nothing is compared"
        )
    if single := [m for m, runs in of.items() if len(runs) == 1]:
        notes.append(
            f"one seed has no interval over seeds: of {', '.join(single)} the table shows the "
            "Wilson interval of the one run, which is over questions"
        )
    lacking = [f"{m} {len(runs)} of {seeds}" for m, runs in of.items() if len(runs) < seeds]
    if lacking:
        notes.append(f"not all seeds have succeeded: {', '.join(lacking)}")
    alone = [m for m, found in pairs.items() if tested and of[m] and not found]
    if alone:
        notes.append(
            f"not compared with {baseline}, for want of a seed with both and the same test "
            f"questions: {', '.join(alone)}"
        )
    return notes
