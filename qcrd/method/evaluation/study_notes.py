"""Notes below a study's table: what is missing from it, and how its runs were chosen."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from qcrd.records.reports.verdicts import MIN_SEEDS
from qcrd.records.study import StudyComparison


def note_missing_runs(
    runs_by_method: Mapping[str, Collection[object]],
    pairs: Mapping[str, Collection[object]],
    n_seeds: int,
    baseline: str,
    has_test_file: bool,
) -> list[str]:
    """`runs_by_method` has the succeeded runs of each method, `pairs` those with a baseline's."""
    notes = []
    if not has_test_file:
        notes.append(
            "no test file was given: accuracies are on validation, which also chose the "
            "checkpoints and trials, and nothing is compared"
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
        notes.append(
            f"not all seeds have succeeded: {', '.join(incomplete)}. Verdicts rest on those that a "
            "method and the baseline both have; until all have ended they may still change"
        )
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


def note_trials(trials: Sequence[str], failed: Sequence[str]) -> list[str]:
    if not trials:
        return []
    listed = "; ".join(f"{number}: {trial}" for number, trial in enumerate(trials))
    told = [
        f"each row and seed was trained {len(trials)} times ({listed}), and the one that was best "
        "on validation is shown, with its own steps, compute and seconds; a seed counts once all "
        "of its trials have ended"
    ]
    return told + ([f"trials that did not succeed: {'; '.join(failed)}"] if failed else [])


def note_equal_differences(comparisons: Mapping[str, StudyComparison], baseline: str) -> list[str]:
    equal = [
        m for m, c in comparisons.items() if c.over_seeds is None and len(c.seeds) >= MIN_SEEDS
    ]
    if not equal:
        return []
    return [
        f"the difference to {baseline} is the same under every seed, so there is no scatter to "
        f"judge it by: {', '.join(equal)}. Do seeds change anything there?"
    ]
