"""The report on made-up results: comparisons, leaks, and how card and command line say them."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
import yaml
from rich.console import Console

from qcrd.cli.output.report import (
    format_comparison,
    format_judge_health,
    format_leaks,
    show_report,
)
from qcrd.method.evaluation.statistics import compare_methods, mcnemar_test, wilson_interval
from qcrd.method.training.training_example import TrainingExample
from qcrd.records.job import Job, Report
from qcrd.records.rationales import (
    Prediction,
    Question,
    RationaleCounts,
    RationaleManifest,
    RationaleUse,
    TestItem,
)
from qcrd.records.reports.accuracy import Accuracy, Comparison
from qcrd.records.reports.answering import AnsweringReport, JudgedAnswers, RationaleSwap
from qcrd.records.reports.doubt import CascadeReport, DoubtReport
from qcrd.records.specs.spec import JobSpec, MethodSpec
from qcrd.records.specs.task import AnswerKind, TaskSpec
from qcrd.records.students.prompt_format import PromptFormat
from services.trainer.checkpoints.store import StudentResult
from services.trainer.data.training_dataset import LabeledQuestions, TrainingDataset
from services.trainer.results.model_card import render_model_card
from services.trainer.results.report import build_report

NAMES = ("questions", "outputs", "parsed", "unparseable", "majority_right")
NAMES += ("majority_wrong", "ties", "positives", "negatives")
COUNTS = RationaleCounts.model_validate(dict.fromkeys(NAMES, 0))
MANIFEST = RationaleManifest(id="set-a", shards=(), counts=COUNTS, created_at=0)
SPEC = JobSpec(
    model="tiny",
    training_file="file-a",
    test_file="file-b",
    seed=5,
    settings=MethodSpec(task=TaskSpec(answer=AnswerKind.NUMBER)),
)
FORMAT = PromptFormat(predict="predict: ", explain="explain: ")
JOB = Job(id="ftjob-" + "0" * 24, spec=SPEC, created_at=0)

TRAINED = ["Ann has 3 apples.\nHow many?", "Bob has 4 pears.\nHow many?"]
TESTED = [
    "ann has 3  apples.\nHow many?",  # word for word
    "Ann has 8 apples.\nHow many did she eat?",  # the story under another number
    *(f"Cora the {name} has 2 plums.\nHow many?" for name in "abcdefgh"),
]
# Which of the ten each student got right: 9, 4 (all of them also the method's) and 9 others.
RIGHT = {"qcrd": range(9), "finetune": range(4), "dss": range(1, 10)}


def known(tested: list[str]) -> TrainingDataset:
    return TrainingDataset(
        MANIFEST,
        tuple(TrainingExample(text, text, "3", "3") for text in TRAINED),
        tuple(Question(id=text, text=text) for text in TRAINED),
        LabeledQuestions((), (), ()),
        tuple(TestItem(question=Question(id=text, text=text), gold="3") for text in tested),
    )


def result(name: str, tested: list[str]) -> StudentResult:
    predictions = tuple(
        Prediction(question_id=text, text="", answer="3", gold="3", right=i in RIGHT[name])
        for i, text in enumerate(tested)
    )
    right = sum(p.right for p in predictions)
    return StudentResult(
        validation=wilson_interval(1, 2),
        test=wilson_interval(right, len(tested)) if tested else None,
        predictions=predictions,
        flops=1.0,
        steps=1,
        seconds=1.0,
    )


def made(tested: list[str] = TESTED) -> Report:
    return build_report(JOB, known(tested), {name: result(name, tested) for name in RIGHT})


def test_every_other_student_is_compared_with_the_method_on_the_same_questions() -> None:
    """Against finetune 5 questions to 0: + .5, p = 2 / 32. Against dss 1 to 1."""
    finetune, dss = made().comparisons
    assert (finetune.method, finetune.baseline, finetune.n) == ("qcrd", "finetune", 10)
    assert (finetune.only_method, finetune.only_baseline) == (5, 0)
    assert finetune.difference == pytest.approx(0.5)
    assert finetune.p == pytest.approx(2 / 32)
    assert finetune.low > 0
    assert finetune.statement == "this student answers more questions right (McNemar p = 0.062)"
    assert (finetune.seed, finetune.draws) == (5, 10_000)
    assert (dss.only_method, dss.only_baseline, dss.difference) == (1, 1, 0)
    assert dss.p == mcnemar_test([True, False], [False, True]) == 1
    assert dss.low < 0 < dss.high
    assert dss.statement == "both answer as many questions right (McNemar p = 1)"


def test_the_student_is_compared_with_its_teacher_where_that_was_asked() -> None:
    """It was asked seven of the ten; of them the student has all right but the last, the teacher
    all but two."""
    asked = known(TESTED)
    said = ["3", None, "4", "3", "3", "3", *[None] * 3, "3"]
    was_asked = [True, True, True, True, True, True, False, False, False, True]
    test = tuple(
        item.model_copy(update={"teacher_answer": answer, "teacher_asked": is_asked})
        for item, answer, is_asked in zip(asked.test, said, was_asked, strict=True)
    )
    results = {name: result(name, TESTED) for name in RIGHT}
    report = build_report(JOB, replace(asked, test=test), results)
    found = report.against_teacher
    assert found is not None
    assert (found.method, found.baseline, found.n) == ("qcrd", "teacher", 7)
    assert (found.only_method, found.only_baseline) == (2, 1)
    assert report.test["teacher"].n == 7
    # Of the methods it says nothing.
    assert "teacher" not in {one.baseline for one in report.comparisons}
    shown = StringIO()
    show_report(Console(width=200, file=shown), report.model_dump(mode="json"))
    assert f"QCRD against teacher: {found.difference:+.3f}" in shown.getvalue()
    told = render_model_card(JOB, report, FORMAT)
    assert "| qcrd | teacher | +0.143 |" in told
    assert made().against_teacher is None


def test_leaks_are_counted_by_story_and_by_word() -> None:
    leak = made().leak
    assert leak is not None
    assert (leak.n_test, leak.n_leaked, leak.n_exact) == (10, 2, 1)
    assert made().test_unseen["qcrd"].n == 8
    none = made(TESTED[2:]).leak
    assert none is not None
    assert (none.n_test, none.n_leaked, none.n_exact) == (8, 0, 0)


def test_without_a_test_file_there_is_nothing_to_compare_or_leak() -> None:
    assert made([]).comparisons == ()
    assert made([]).leak is None


def test_a_report_from_before_comparisons_is_still_read() -> None:
    old = made().model_dump(mode="json", exclude={"comparisons", "leak"})
    assert Report.model_validate(old).comparisons == ()


def test_a_comparison_from_before_seeds_were_counted_is_still_read_and_told() -> None:
    old = made().comparisons[0].model_dump(mode="json", exclude={"seeds_needed"})
    read = Comparison.model_validate(old)
    assert read.seeds_needed is None
    assert read.statement == made().comparisons[0].statement
    report = made().model_dump(mode="json") | {"comparisons": [old]}
    assert "at least 5 seeds can\n" in show(report)


def show(report: dict[str, Any]) -> str:
    console = Console(record=True, width=200)
    show_report(console, report)
    return "".join(line.rstrip() + "\n" for line in console.export_text().splitlines())


def test_the_command_line_says_one_line_for_each() -> None:
    text = show(made().model_dump(mode="json"))
    (more,) = [line for line in text.splitlines() if "against finetuning, equal steps" in line]
    assert more.startswith("Compared    QCRD against")
    assert "+0.500 [+0." in more
    assert more.endswith(
        "on 10 questions: this student answers more questions right (McNemar p = 0.062)"
    )
    (same,) = [line for line in text.splitlines() if "against distilling step-by-step" in line]
    assert same.endswith("both answer as many questions right (McNemar p = 1)")
    (methods,) = [line for line in text.splitlines() if line.startswith("Methods")]
    needed = max(one.seeds_needed or 0 for one in made().comparisons)
    assert methods.startswith("Methods     cannot tell: another seed would")
    assert f"at least 5 seeds can; about {needed} would find a difference of 1.5 points" in methods
    assert "Leak        2 of 10 test questions repeat a training story" in text


@pytest.mark.parametrize(
    ("only_method", "only_baseline", "said"),
    [
        (5, 0, "this student answers more questions right"),
        (9, 2, "this student answers more questions right"),
        (60, 0, "this student answers more questions right"),
        (0, 5, "this student answers fewer questions right"),
        (4, 4, "both answer as many questions right"),
        (0, 0, "both answer as many questions right"),
    ],
)
def test_one_pair_of_students_is_never_a_verdict_on_methods(
    only_method: int, only_baseline: int, said: str
) -> None:
    """Not of 5 to 0 of 200, whose interval is above 0 and whose p .062, nor of 60 to 0."""
    agreed = [True] * (200 - only_method - only_baseline)
    first = [True] * only_method + [False] * only_baseline + agreed
    second = [False] * only_method + [True] * only_baseline + agreed
    found = compare_methods(("qcrd", first), ("dss", second), seed=0)
    line = format_comparison(found)
    assert line.endswith(f"on 200 questions: {said} (McNemar p = {found.p:.2g})")
    assert not any(word in line for word in ("better", "worse", "no difference"))


def test_rows_say_what_their_own_rationales_do() -> None:
    use = RationaleUse(
        questions=10, given=8, given_right=7, right_without=6, given_same=5, named=3, named_same=2,
        named_right=1,
    )  # fmt: skip
    results = {name: result(name, TESTED) for name in RIGHT}
    results["qcrd"] = results["qcrd"].model_copy(update={"rationale_use": use})
    report = build_report(JOB, known(TESTED), results)
    assert report.rationale_use == {"qcrd": use}
    text = show(report.model_dump(mode="json"))
    assert (
        "Explained   QCRD: with its own rationale below the question 7 of 8 labels are right, "
        "without it 6; 5 are the same. 2 questions are too long with it. 3 rationales name an "
        "answer by themselves: 2 the student's label, 1 the right one"
    ) in text.replace("\n", " ")
    old = report.model_dump(mode="json", exclude={"rationale_use"})
    assert Report.model_validate(old).rationale_use == {}
    assert "Explained" not in show(old)


def test_a_row_states_its_tokens_and_one_of_before_leaves_them_out() -> None:
    report = made().model_dump(mode="json")
    report["test"]["qcrd"] |= {"tokens": 1_234_567}
    rows = {line.split()[1]: line for line in show(report).splitlines() if "│" in line}
    assert "1,234,567" in rows["QCRD"]
    assert "1,234,567" not in rows["finetuning,"]
    del report["test"]["dss"]["tokens"]
    assert Report.model_validate(report).test["dss"].tokens is None


def test_leaks_in_words() -> None:
    said = format_leaks({"n_test": 200, "n_leaked": 105, "n_exact": 3})
    assert said.startswith("105 of 200 test questions")
    assert said.endswith("3 of them word for word")


def test_the_card_carries_the_same() -> None:
    found = made()
    told = render_model_card(JOB, found, FORMAT)
    first = found.comparisons[0]
    interval = f"{first.low:+.3f} to {first.high:+.3f}"
    assert f"| qcrd | finetune | +0.500 | {interval} | 10 | 5 | 0 | this student answers" in told
    assert "| both answer as many questions right (McNemar p = 1) |" in told
    assert "The methods: cannot tell: another seed would train other students." in told
    assert "10,000 paired bootstrap samples (percentiles, seed 5)" in told
    assert "Of 10 test questions 2 have a story" in told
    assert "## Compared" not in render_model_card(JOB, made([]), FORMAT)


# --- the judge, in words --------------------------------------------------------------------------


def test_the_judge_is_told_by_source() -> None:
    health = {
        "pretrained_auc": 0.34,
        "pretrained_positives": 29,
        "pretrained_negatives": 1,
        "pretrained_n_teacher_minority": 1,
        "pretrained_alarm_negatives": 0,
        "auc": 0.8,
        "positives": 29,
        "negatives": 8,
        "n_student_lag": 7,
        "auc_student_lag": 0.9,
        "n_teacher_minority": 1,
        "auc_teacher_minority": 0.1,
        "alarm_negatives": 7,
        "brier": 0.21,
        "ece": 0.12,
    }
    assert format_judge_health(health) == (
        "AUC 0.34 after pretraining (29 positives, 1 of the teacher's minority), "
        "AUC 0.80 at the end (29 positives, 1 of the teacher's minority: AUC 0.10, "
        "7 of the student's samples: AUC 0.90); Brier score 0.21, calibration error 0.12"
    )
    few = format_judge_health({**health, "alarm_negatives": 0})
    assert few.endswith("; too few held-out rationales to raise an alarm")


def test_a_judge_that_could_not_be_measured_is_told_as_such() -> None:
    assert (
        format_judge_health({"positives": 3, "negatives": 0})
        == "no held-out negatives to measure it on"
    )


@pytest.mark.parametrize(("with_real", "is_told"), [(0, True), (3, False), (None, False)])
def test_a_judge_that_saw_no_wrong_output_is_told_as_such(
    with_real: int | None, is_told: bool
) -> None:
    """An earlier release did not count them."""
    health = {"positives": 3.0, "negatives": 0.0}
    if with_real is not None:
        health["pretrained_questions_with_real_negatives"] = with_real
    said = format_judge_health(health)
    assert said.startswith("no held-out negatives to measure it on")
    assert (
        said.endswith("; pretrained without any wrong teacher output, on corrupted texts alone")
        == is_told
    )


def test_the_card_keeps_the_receivers_address_to_itself() -> None:
    spec = SPEC.model_copy(update={"webhook": "https://hooks.example/T0/secret-path"})
    told = render_model_card(JOB.model_copy(update={"spec": spec}), made(), FORMAT)
    assert "hooks.example" not in told
    assert '"training_file": "file-a"' in told


# --- what its answers rest on, and how sure it is of them ----------------------------------------


def make_answering(*, useful: bool) -> AnsweringReport:
    judged = JudgedAnswers(
        judge="judge-1",
        version=1,
        useful=useful,
        reason=None if useful else "on 40 questions its best is not shown to be above their vote",
        health={"auc": 0.71},
    )
    row = Accuracy(accuracy=0.75, low=0.6, high=0.9, n=40, answer_tokens=64.2)
    return AnsweringReport(
        swap=RationaleSwap(n=40, right_with_own=30, right_without=20, right_with_other=4),
        samples=4,
        temperature=0.7,
        rows={"vote": row, "best_of": row},
        judged=judged,
    )


DOUBT = DoubtReport(
    calibrated_on=16, n=40, brier=0.1, brier_constant=0.1875, ece=0.05, auroc=0.8, reliability=()
)
CASCADE = CascadeReport(
    teacher="big", wanted=0.9, threshold=0.62, validation_kept=150, validation_agreeing=145,
    validation_low=0.924, n=40, kept=30, agreeing=28, right=36, student_right=30, teacher_right=38,
    escalated_per_1000=250, cost_per_1000=1.25, currency="USD",
)  # fmt: skip


@pytest.mark.parametrize("useful", [True, False])
def test_report_and_card_say_what_the_answers_rest_on(useful: bool) -> None:
    update = {"answering": make_answering(useful=useful), "doubt": DOUBT, "cascade": CASCADE}
    report = made().model_copy(update=update)
    shown = StringIO()
    show_report(Console(width=400, file=shown), report.model_dump(mode="json"))
    card = render_model_card(JOB, report, FORMAT)
    assert "│ vote of 4" in shown.getvalue()
    assert "judge's best of 4" in shown.getvalue()
    assert "64.2" in shown.getvalue()
    assert "`vote` of 4 outputs at temperature 0.7: 0.750 [0.600, 0.900], 64 tokens" in card
    told = {
        "30 are answered rightly behind the student's own rationale, 20 behind none, and 4 behind",
        "Brier score 0.100 (0.188 for always saying the share of right answers)",
        "ranks a right answer above a wrong one in 80% of pairs; calibrated on 16",
        "from a confidence of 0.620 on the student agrees with big on 145 of 150 validation",
        "of a thousand 250 go to the teacher at 1.25 USD at most",
        "AUC 0.71 on held-out questions" if useful else "no help: on 40 questions its best is not",
    }
    for sentence in told:
        assert sentence in shown.getvalue()
        assert sentence in card


def test_a_cascade_without_a_threshold_says_why() -> None:
    cascade = CascadeReport(teacher="big", wanted=0.9, threshold=None, reason="16 questions")
    report = made().model_copy(update={"cascade": cascade})
    card = render_model_card(JOB, report, FORMAT)
    assert "With its teacher: every question goes to big: 16 questions." in card


def test_a_hub_reads_the_base_the_task_and_the_accuracy_with_its_interval() -> None:
    report = made()
    head = yaml.safe_load(render_model_card(JOB, report, FORMAT).split("---\n")[1])
    assert (head["base_model"], head["pipeline_tag"]) == (JOB.spec.model, "text-generation")
    row = report.test["qcrd"]
    [result] = head["model-index"][0]["results"]
    [metric] = result["metrics"]
    assert result["dataset"]["name"] == JOB.spec.test_file
    assert (metric["type"], metric["value"]) == ("accuracy", pytest.approx(row.accuracy, abs=1e-4))
    assert metric["args"] == {"low": round(row.low, 4), "high": round(row.high, 4), "n": row.n}
    card = render_model_card(JOB, report, FORMAT, is_encoder_decoder=True)
    assert "text2text-generation" in card
