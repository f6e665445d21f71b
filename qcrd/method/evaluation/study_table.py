"""A study's table from its runs' results: means over seeds, verdicts, and what is told beside them.

Intervals of a method and of its difference to the baseline are over seeds (how other runs would
come out, on the same test questions), and the verdict rests on them. The crossed bootstrap, which
draws other questions too, and McNemar's test of each seed are told beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from qcrd.method.evaluation.statistics import (
    BOOTSTRAP_DRAWS,
    crossed_bootstrap,
    mcnemar_test,
    t_interval,
)
from qcrd.method.evaluation.study_notes import (
    note_equal_differences,
    note_missing_runs,
    note_trials,
)
from qcrd.method.evaluation.verdicts import Decision, decide, guess_scatter, holm_correction
from qcrd.records.reports.accuracy import Accuracy
from qcrd.records.reports.verdicts import EQUIVALENCE_MARGIN
from qcrd.records.study import (
    SeedAccuracy,
    SeedsTest,
    SeedTest,
    StudyComparison,
    StudyRow,
    StudyTable,
)

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
    trial: int | None = None
    """The chosen one, of a study with trials."""
    teacher_tokens: int | None = None
    given_rationale: float | None = None
    rationale_gap: float | None = None
    in_force_share: float | None = None


def build_study_table(
    methods: Sequence[str],
    seeds: Sequence[int],
    baseline: str,
    runs: Sequence[StudyRun],
    *,
    has_test_file: bool,
    margin: float = EQUIVALENCE_MARGIN,
    references: Mapping[str, Accuracy] | None = None,
    trials: Sequence[str] = (),
    failed_trials: Sequence[str] = (),
    draws: int = BOOTSTRAP_DRAWS,
) -> StudyTable:
    """One row for each of `methods`, those without any run included. Without a test file accuracies
    are on validation and nothing is compared."""
    runs_by_method = {
        m: {r.seed: r for r in runs if r.method == m and r.seed in seeds} for m in methods
    }
    pairs = {
        m: _pair_runs(runs_by_method[m], runs_by_method[baseline]) for m in methods if m != baseline
    }
    comparisons = _compare_with_baseline(pairs, margin, draws)
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
        equivalence_margin=margin,
        references=dict(references or {}),
        notes=(
            *note_missing_runs(runs_by_method, pairs, len(seeds), baseline, has_test_file),
            *note_equal_differences(comparisons, baseline),
            *note_trials(trials, failed_trials),
        ),
    )


T = TypeVar("T")
RunPair = tuple[StudyRun, StudyRun]
"""A method's run and the baseline's, of the same seed and on the same test questions."""


def _pair_runs(method: Mapping[int, StudyRun], baseline: Mapping[int, StudyRun]) -> list[RunPair]:
    pairs = [(method[seed], baseline[seed]) for seed in sorted(method.keys() & baseline.keys())]
    pairs = [(a, b) for a, b in pairs if a.questions and a.questions == b.questions]
    # Resampling a question takes all its seeds, so all need the same questions.
    return [(a, b) for a, b in pairs if a.questions == pairs[0][0].questions]


def _compare_with_baseline(
    pairs: Mapping[str, Sequence[RunPair]], margin: float, draws: int
) -> dict[str, StudyComparison]:
    """Per method that can be compared; the corrections run over all methods of the study."""
    gains = {
        m: np.array([_correctness_gains(a, b) for a, b in method_pairs])
        for m, method_pairs in pairs.items()
        if method_pairs
    }
    decisions = decide(
        [gain.mean(axis=1).tolist() for gain in gains.values()],
        comparisons=len(pairs),
        margin=margin,
        scatter=[_guess_scatter(gain) for gain in gains.values()],
    )
    bootstraps = [
        crossed_bootstrap(gain, seed=BOOTSTRAP_SEED, draws=draws) for gain in gains.values()
    ]
    corrected = holm_correction([found.p for found in bootstraps], len(pairs))
    tests = _run_seed_tests({m: pairs[m] for m in gains})
    return {
        m: StudyComparison(
            seeds=tuple(a.seed for a, _ in pairs[m]),
            n=gain.shape[1],
            difference=found.value,
            low=found.low,
            high=found.high,
            p=found.p,
            p_holm=p_holm,
            draws=draws,
            by_seed=tuple(tests[m]),
            over_seeds=_make_seeds_test(decision),
            verdict=decision.verdict,
            seeds_needed=decision.seeds_needed,
        )
        for (m, gain), decision, found, p_holm in zip(
            gains.items(), decisions, bootstraps, corrected, strict=True
        )
    }


def _guess_scatter(gains: np.ndarray) -> float:
    """From the first seed."""
    first = gains[0]
    return guess_scatter(int((first == 1).sum()), int((first == -1).sum()), len(first))


def _make_seeds_test(decision: Decision) -> SeedsTest | None:
    test = decision.test
    if test is None:
        return None
    return SeedsTest(
        low=test.low,
        high=test.high,
        p=test.p,
        p_holm=decision.p_holm,
        equivalence_p=test.equivalence_p,
        equivalence_p_holm=decision.equivalence_p_holm,
    )


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
    trial_by_seed = {run.seed: run.trial for run in runs}
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
                SeedAccuracy(seed=seed, accuracy=one.accuracy, trial=trial_by_seed[seed])
                for seed, one in measured_by_seed.items()
            ),
            "validation": _mean([r.validation for r in runs], lambda a: a.accuracy),
            "steps": _mean(measured, lambda a: a.steps),
            "tokens": _mean(measured, lambda a: a.tokens),
            "flops": _mean(measured, lambda a: a.flops),
            "seconds": _mean(measured, lambda a: a.seconds),
            "teacher_tokens": _mean(runs, lambda r: r.teacher_tokens),
            "given_rationale": _mean(runs, lambda r: r.given_rationale),
            "rationale_gap": _mean(runs, lambda r: r.rationale_gap),
            "in_force_share": _mean(runs, lambda r: r.in_force_share),
        }
    )


def _mean(rows: Sequence[T | None], value: Callable[[T], float | None]) -> float | None:
    """The mean of the values there are; None without any."""
    values = [v for row in rows if row is not None and (v := value(row)) is not None]
    return sum(values) / len(values) if values else None
