"""Diagnose the negatives and the judge: loss terms and scores of the runs, and the student's
samples by temperature."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.ladder import data as ladder_data
from benchmarks.ladder import students
from benchmarks.ladder.data import DATASETS
from benchmarks.ladder.run import Conditions
from benchmarks.ladder.table import ResultLine, format_cell, format_row, group_by
from qcrd.method.prompts import EXPLAIN_PREFIX
from qcrd.method.student.loading import load_student
from qcrd.method.student.targets import Target
from qcrd.method.training import weight_history
from qcrd.method.training.objectives import OBJECTIVES

TEMPERATURES = (0.7, 1.0, 1.5)


def render_markdown(results: Sequence[ResultLine]) -> str:
    finished = [line for line in results if "failed" not in line]
    return "\n\n".join(
        "\n".join(part)
        for part in (
            _render_loss_terms(finished),
            _render_samples(finished),
            _render_picks(finished),
        )
    )


def _render_loss_terms(found: Sequence[ResultLine]) -> Iterator[str]:
    """The loss terms of eqs 6 and 7 over the training steps."""
    yield format_row(
        ("data set", "row", "seeds", "steps", "steps with a negative below the margin",
         "mean positive term", "mean label CE, first step", "last step")
    )  # fmt: skip
    yield format_row(["---"] * 8)
    for dataset, runs in group_by(found, "dataset").items():
        for method, method_runs in group_by(runs, "method").items():
            steps = [step for line in method_runs for step in line["loss"]]
            positive_terms = [step["positive"] for step in steps if "positive" in step]
            steps_with_negatives = sum(step.get("negative", 0.0) != 0 for step in steps)
            yield format_row(
                [
                    dataset,
                    method,
                    str(len(method_runs)),
                    str(len(steps)),
                    f"{steps_with_negatives} of {len(steps)}"
                    if OBJECTIVES[method].uses_negatives
                    else "",
                    format_cell(
                        sum(positive_terms) / len(positive_terms) if positive_terms else None, ".2f"
                    ),
                    format_cell(_mean([line["loss"][0]["label"] for line in method_runs]), ".2f"),
                    format_cell(_mean([line["loss"][-1]["label"] for line in method_runs]), ".2f"),
                ]
            )


def _render_samples(found: Sequence[ResultLine]) -> Iterator[str]:
    """Each iteration's negatives as the judge scored them before it was trained on them."""
    yield format_row(
        ("data set", "seed", "iteration", "samples", "parsed", "right", "name the gold answer",
         "positives that do", "AUC: right teacher against samples", "against wrong teacher",
         "right / wrong teacher rationales", "mean score: right, wrong, sampled")
    )  # fmt: skip
    yield format_row(["---"] * 12)
    for line in found:
        for iteration, observation in enumerate(line["judged"], 1):
            auc = observation["auc"]
            means = (
                format_cell(auc[f"mean_{kind}"], ".2f") for kind in ("right", "wrong", "sampled")
            )
            yield format_row(
                [
                    line["dataset"],
                    *(str(n) for n in (line["seed"], iteration)),
                    *(str(observation[n]) for n in ("samples", "parsed", "right", "names_gold")),
                    f"{observation['positives_name_gold']} of {observation['positives']}",
                    format_cell(auc["against_samples"], ".2f"),
                    format_cell(auc["against_wrong_teacher"], ".2f"),
                    f"{auc['n_right']} / {auc['n_wrong']}",
                    ", ".join(means),
                ]
            )


def _render_picks(found: Sequence[ResultLine]) -> Iterator[str]:
    lines = [line for line in found if line["picks"]]
    if not lines:
        yield "No question of these data sets has two positives: min_max had nothing to pick."
        return
    yield format_row(("data set", "row", "seed", "questions", "pick is the first", "the shortest",
                 "gap between dearest and cheapest, nats"))  # fmt: skip
    yield format_row(["---"] * 7)
    for line in lines:
        picks = line["picks"]
        shares = (format_cell(picks[name], ".2f") for name in ("first", "shortest", "margin"))
        yield format_row(
            [
                line["dataset"],
                line["method"],
                *map(str, (line["seed"], picks["questions"])),
                *shares,
            ]
        )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def sample_temperatures(
    data: Path, models: Path, dataset: str, conditions: Conditions, *, questions: int
) -> Iterator[str]:
    """The untrained student's samples at three temperatures, with their loss under the student.

    Until the lag has passed, every negative is sampled from these weights.
    """
    spec = conditions.make_method_spec(dataset)
    loaded = ladder_data.load_data(data / dataset, DATASETS[dataset], spec, seed=0, train=questions)
    base = students.get_checkpoint(conditions.student, models)
    student = load_student(base, spec.student, spec.hyperparameters, seed=0)
    yield format_row(
        ("sampled at", "samples", "below the margin", "CE: lowest", "median", "highest")
    )
    yield format_row(["---"] * 6)
    for temperature in TEMPERATURES:
        samples = weight_history.sample_rationales(
            student,
            [(lesson.id, lesson.text) for lesson in loaded.lessons],
            n=1,
            temperature=temperature,
            max_new_tokens=spec.hyperparameters.max_rationale_tokens,
            seed=0,
            tag=str(temperature),
        )
        pairs = [(lesson.text, r) for lesson in loaded.lessons for r in samples[lesson.id]]
        ce = sorted(
            student.mean_cross_entropy(
                [EXPLAIN_PREFIX + text for text, _ in pairs],
                range(len(pairs)),
                [Target(r.text, is_cut=r.is_cut) for _, r in pairs],
            ).tolist()
        )
        below_margin = sum(value < spec.loss.delta for value in ce)
        spread = (ce[0], ce[len(ce) // 2], ce[-1])
        yield format_row(
            [
                f"{temperature}",
                f"{len(ce)}",
                f"{below_margin}",
                *(f"{value:.2f}" for value in spread),
            ]
        )
