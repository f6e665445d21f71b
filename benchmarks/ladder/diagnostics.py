"""Why negatives and the judge help or do not: what the runs' records say, and what the student
samples at which temperature."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.ladder import data as ladder_data
from benchmarks.ladder import students
from benchmarks.ladder.data import DATASETS
from benchmarks.ladder.run import Conditions
from benchmarks.ladder.table import Line, by, cell, cells
from qcrd.method.prompts import EXPLAIN_PREFIX
from qcrd.method.student.loading import load_student
from qcrd.method.training import weight_history
from qcrd.method.training.objectives import OBJECTIVES

TEMPERATURES = (0.7, 1.0, 1.5)


def markdown(found: Sequence[Line]) -> str:
    ended = [line for line in found if "failed" not in line]
    return "\n\n".join("\n".join(part) for part in (_terms(ended), _samples(ended), _picks(ended)))


def _terms(found: Sequence[Line]) -> Iterator[str]:
    """The loss terms of eqs 6 and 7 as the steps had them."""
    yield cells(
        ("data set", "row", "seeds", "steps", "steps with a negative below the margin",
         "mean positive term", "mean label CE, first step", "last step")
    )  # fmt: skip
    yield cells(["---"] * 8)
    for dataset, runs in by(found, "dataset").items():
        for method, own in by(runs, "method").items():
            steps = [step for line in own for step in line["loss"]]
            taught = [step["positive"] for step in steps if "positive" in step]
            forced = sum(step.get("negative", 0.0) != 0 for step in steps)
            yield cells(
                [
                    dataset,
                    method,
                    str(len(own)),
                    str(len(steps)),
                    f"{forced} of {len(steps)}" if OBJECTIVES[method].uses_negatives else "",
                    cell(sum(taught) / len(taught) if taught else None, ".2f"),
                    cell(_average([line["loss"][0]["label"] for line in own]), ".2f"),
                    cell(_average([line["loss"][-1]["label"] for line in own]), ".2f"),
                ]
            )


def _samples(found: Sequence[Line]) -> Iterator[str]:
    """Each iteration's negatives as the judge was shown them, before it learned from them."""
    yield cells(
        ("data set", "seed", "iteration", "samples", "parsed", "right", "name the gold answer",
         "positives that do", "AUC: right teacher against samples", "against wrong teacher",
         "right / wrong teacher rationales", "mean score: right, wrong, sampled")
    )  # fmt: skip
    yield cells(["---"] * 12)
    for line in found:
        for iteration, seen in enumerate(line["judged"], 1):
            auc = seen["auc"]
            means = (cell(auc[f"mean_{kind}"], ".2f") for kind in ("right", "wrong", "sampled"))
            yield cells(
                [
                    line["dataset"],
                    *(str(n) for n in (line["seed"], iteration)),
                    *(str(seen[n]) for n in ("samples", "parsed", "right", "names_gold")),
                    f"{seen['positives_name_gold']} of {seen['positives']}",
                    cell(auc["against_samples"], ".2f"),
                    cell(auc["against_wrong_teacher"], ".2f"),
                    f"{auc['n_right']} / {auc['n_wrong']}",
                    ", ".join(means),
                ]
            )


def _picks(found: Sequence[Line]) -> Iterator[str]:
    looked = [line for line in found if line["picks"]]
    if not looked:
        yield "No question of these data sets has two positives: min_max had nothing to pick."
        return
    yield cells(("data set", "row", "seed", "questions", "pick is the first", "the shortest",
                 "gap between dearest and cheapest, nats"))  # fmt: skip
    yield cells(["---"] * 7)
    for line in looked:
        own = line["picks"]
        shares = (cell(own[name], ".2f") for name in ("first", "shortest", "margin"))
        yield cells(
            [line["dataset"], line["method"], *map(str, (line["seed"], own["questions"])), *shares]
        )


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def temperatures(
    data: Path, models: Path, dataset: str, given: Conditions, *, questions: int
) -> Iterator[str]:
    """The untrained student's samples at three temperatures, and what they cost the student itself.

    Every negative comes from these weights until training is older than the lag.
    """
    spec = given.spec(dataset)
    found = ladder_data.read(data / dataset, DATASETS[dataset], spec, seed=0, train=questions)
    base = students.folder(given.student, models)
    student = load_student(base, spec.student, spec.hyperparameters, seed=0)
    yield cells(("sampled at", "samples", "below the margin", "CE: lowest", "median", "highest"))
    yield cells(["---"] * 6)
    for temperature in TEMPERATURES:
        said = weight_history.sample_rationales(
            student,
            [(lesson.id, lesson.text) for lesson in found.lessons],
            n=1,
            temperature=temperature,
            max_new_tokens=spec.hyperparameters.max_rationale_tokens,
            seed=0,
            tag=str(temperature),
        )
        pairs = [(lesson.text, r.text) for lesson in found.lessons for r in said[lesson.id]]
        reading = student.encode([EXPLAIN_PREFIX + text for text, _ in pairs])
        ce = sorted(
            student.mean_cross_entropy(
                reading, range(len(pairs)), [text for _, text in pairs]
            ).tolist()
        )
        below = sum(value < spec.loss.delta for value in ce)
        spread = (ce[0], ce[len(ce) // 2], ce[-1])
        yield cells(
            [f"{temperature}", f"{len(ce)}", f"{below}", *(f"{value:.2f}" for value in spread)]
        )
