"""A study's table from its runs' results: means over seeds, and paired tests.

Two uncertainties are kept apart. A method's own interval is over seeds (how another run would come
out); the interval of a difference is over test questions (whether other questions would show it),
with the seeds that were run taken as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qcrd.method.evaluation.statistics import BOOTSTRAP_DRAWS, mcnemar_test, t_interval
from qcrd.records.job import Accuracy
from qcrd.records.study import SeedAccuracy, SeedTest, StudyComparison, StudyRow, StudyTable

BOOTSTRAP_SEED = 0
"""A fixed seed, so that the same runs always give the same table."""


@dataclass(frozen=True)
class StudyRun:
    """The results of one method under one seed; the run of a job that did not succeed is left out.

    `questions` are the ids of the test questions in order and `right` says of each whether the
    student's answer was; both are empty without a test file. `test` is None without one.
    """

    method: str
    seed: int
    test: Accuracy | None
    validation: Accuracy | None
    questions: tuple[str, ...] = ()
    right: tuple[bool, ...] = ()


def build_study_table(
    methods: Sequence[str],
    seeds: Sequence[int],
    baseline: str,
    runs: Sequence[StudyRun],
    *,
    has_test_file: bool,
    references: Mapping[str, Accuracy] | None = None,
    draws: int = BOOTSTRAP_DRAWS,
) -> StudyTable:
    """One row for each of `methods`, those without any run included. `tested`: there is a test
    file, so accuracies are on it; otherwise they are on validation and nothing is compared."""
    runs_by_method = {
        m: {r.seed: r for r in runs if r.method == m and r.seed in seeds} for m in methods
    }
    pairs = {
        m: _pair_runs(runs_by_method[m], runs_by_method[baseline]) for m in methods if m != baseline
    }
    comparisons = _compare_with_baseline({m: p for m, p in pairs.items() if p}, draws)
    counts = {len(run.questions) for run in runs if run.questions}
    return StudyTable(
        measured="test" if has_test_file else "validation",
        questions=counts.pop() if len(counts) == 1 else None,
        baseline=baseline,
        rows=tuple(
            _build_row(
                m, list(runs_by_method[m].values()), len(seeds), has_test_file, comparisons.get(m)
            )
            for m in methods
        ),
        references=dict(references or {}),
        notes=tuple(_build_notes(runs_by_method, pairs, len(seeds), baseline, has_test_file)),
    )


def holm_correction(p_values: Sequence[float]) -> list[float]:
    """`p_values` corrected for their number, in the same order (Holm 1979).

    The smallest is multiplied by how many there are, the next by one less, and so on; none becomes
    smaller than the one before it, nor larger than 1.
    """
    corrected, running_max = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        running_max = max(running_max, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = running_max
    return corrected


@dataclass(frozen=True)
class Difference:
    """The difference of two accuracies, with its 95 % interval and two-sided p."""

    value: float
    low: float
    high: float
    p: float


def bootstrap_difference(
    gains: np.ndarray, *, seed: int, draws: int = BOOTSTRAP_DRAWS
) -> Difference:
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


RunPair = tuple[StudyRun, StudyRun]
"""A method's run and the baseline's, of the same seed and on the same test questions."""


def _pair_runs(method: Mapping[int, StudyRun], baseline: Mapping[int, StudyRun]) -> list[RunPair]:
    pairs = [(method[seed], baseline[seed]) for seed in sorted(method.keys() & baseline.keys())]
    pairs = [(a, b) for a, b in pairs if a.questions and a.questions == b.questions]
    # Resampling a question takes all its seeds, so all need the same questions.
    return [(a, b) for a, b in pairs if a.questions == pairs[0][0].questions]


def _compare_with_baseline(
    pairs: Mapping[str, Sequence[RunPair]], draws: int
) -> dict[str, StudyComparison]:
    """Per method; the corrections run over the methods."""
    gains = {
        m: np.array([_correctness_gains(a, b) for a, b in differences])
        for m, differences in pairs.items()
    }
    found = {
        m: bootstrap_difference(gain, seed=BOOTSTRAP_SEED, draws=draws) for m, gain in gains.items()
    }
    corrected = dict(zip(found, holm_correction([d.p for d in found.values()]), strict=True))
    tests = _run_seed_tests(pairs)
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


def _correctness_gains(method: StudyRun, baseline: StudyRun) -> list[int]:
    return [int(a) - int(b) for a, b in zip(method.right, baseline.right, strict=True)]


def _run_seed_tests(pairs: Mapping[str, Sequence[RunPair]]) -> dict[str, list[SeedTest]]:
    tests: dict[str, list[SeedTest]] = {method: [] for method in pairs}
    for seed in sorted({a.seed for method_pairs in pairs.values() for a, _ in method_pairs}):
        pairs_of_seed = {
            m: pair for m, found in pairs.items() for pair in found if pair[0].seed == seed
        }
        p_values = [mcnemar_test(a.right, b.right) for a, b in pairs_of_seed.values()]
        for (m, (a, b)), p, corrected in zip(
            pairs_of_seed.items(), p_values, holm_correction(p_values), strict=True
        ):
            gains = _correctness_gains(a, b)
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


def _build_row(
    method: str,
    runs: Sequence[StudyRun],
    n_seeds: int,
    has_test_file: bool,
    comparison: StudyComparison | None,
) -> StudyRow:
    accuracy_by_seed = {run.seed: run.test if has_test_file else run.validation for run in runs}
    measured_by_seed = {
        seed: accuracy
        for seed, accuracy in sorted(accuracy_by_seed.items())
        if accuracy is not None
    }
    row = StudyRow(method=method, n=len(runs), of=n_seeds, comparison=comparison)
    if not measured_by_seed:
        return row
    measured = list(measured_by_seed.values())
    mean = t_interval([seed_accuracy.accuracy for seed_accuracy in measured])
    single = len(measured) == 1
    return row.model_copy(
        update={
            "accuracy": mean.value,
            # The t interval may leave [0, 1], which an accuracy cannot.
            "low": measured[0].low if single else max(0.0, mean.low),
            "high": measured[0].high if single else min(1.0, mean.high),
            "interval": "wilson" if single else "t",
            "by_seed": tuple(
                SeedAccuracy(seed=seed, accuracy=one.accuracy)
                for seed, one in measured_by_seed.items()
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
    """The mean of the values there are; None without any."""
    values = [v for row in rows if row is not None and (v := value(row)) is not None]
    return sum(values) / len(values) if values else None


def _build_notes(
    runs_by_method: Mapping[str, Mapping[int, StudyRun]],
    pairs: Mapping[str, Sequence[RunPair]],
    n_seeds: int,
    baseline: str,
    has_test_file: bool,
) -> list[str]:
    notes = []
    if not has_test_file:
        notes.append(
            "no test file was given: accuracies are on validation, which also chose the "
            "checkpoints, and nothing is compared"
        )
    if single := [m for m, runs in runs_by_method.items() if len(runs) == 1]:
        notes.append(
            f"one seed has no interval over seeds: of {', '.join(single)} the table shows the "
            "Wilson interval of the one run, which is over questions"
        )
    incomplete = [
        f"{m} {len(runs)} of {n_seeds}" for m, runs in runs_by_method.items() if len(runs) < n_seeds
    ]
    if incomplete:
        notes.append(f"not all seeds have succeeded: {', '.join(incomplete)}")
    uncompared = [
        m
        for m, method_pairs in pairs.items()
        if has_test_file and runs_by_method[m] and not method_pairs
    ]
    if uncompared:
        notes.append(
            f"not compared with {baseline}, for want of a seed with both and the same test "
            f"questions: {', '.join(uncompared)}"
        )
    return notes
