"""Events of a student's training: each is told once, also by a run that does a part again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qcrd.method.judge.health import has_collapsed, saw_no_real_negative
from qcrd.method.training.negatives.supply import MIN_SHARE_IN_FORCE
from qcrd.method.training.progress import IterationFinished, JudgePretrained, StepFinished
from qcrd.method.training.schedule import (
    UNTRAINED_ONLY_ADVICE,
    TrainingSchedule,
    compute_untrained_share,
)
from qcrd.records.reports.accuracy import Accuracy
from qcrd.records.specs.task import TaskSpec
from qcrd.runtime.jobs.stage_context import StageContext
from services.trainer.checkpoints.store import StudentResult

INERT_SHARE = 0.01
"""Share of the negatives in force under which they do nothing."""
EVENT_LOOKBACK = 1000
"""Events that a resumed run reads to know what has been told."""


def find_last_emitted_step(stage: StageContext, method: str) -> int:
    """The last step of `method` that the event log has, 0 without one."""
    events = stage.events.read(stage.job.id, None, EVENT_LOOKBACK, newest_first=True)
    steps = [e.data["step"] for e in events if e.data.get("method") == method and "loss" in e.data]
    return max(steps, default=0)


def emit_untrained_share(stage: StageContext, schedule: TrainingSchedule, n_examples: int) -> None:
    """How much of a method's training will learn from negatives of the untrained student."""
    share = compute_untrained_share(schedule.method, schedule.spec, n_examples)
    if share is None:
        return
    is_all = share == 1.0
    stage.events.append(
        stage.job.id,
        f"{schedule.method}: iterations of {schedule.iteration_steps} steps, "
        f"{schedule.steps} steps in all; {share:.0%} of the training, weighted by its learning "
        "rate, learns from negatives of the untrained student"
        + (f": {UNTRAINED_ONLY_ADVICE}" if is_all else ""),
        level="warn" if is_all else "info",
        data={"method": schedule.method, "untrained_share": share},
        once=f"{schedule.method}-untrained-share",
    )


def emit_step(
    stage: StageContext, schedule: TrainingSchedule, step: StepFinished, percent: float
) -> None:
    """`percent` of the job's training is done."""
    method = schedule.method
    total = schedule.steps if schedule.flops is None else round(step.step / step.completed_fraction)
    stage.report_progress(percent, step=step.step, total=total)
    data: dict[str, Any] = {
        "method": method,
        "step": step.step,
        "iteration": step.iteration,
        "gradient_norm": step.gradient_norm,
        "learning_rate": step.learning_rate,
        **step.losses,
    }
    stage.emit_metrics(f"{method}: step {step.step}, loss {step.losses['loss']:.4f}", **data)


def emit_iteration(stage: StageContext, method: str, record: IterationFinished) -> None:
    accuracy = record.validation_accuracy
    best_suffix = ", the best so far" if record.is_best else ""
    validated = "" if accuracy is None else f", validation {accuracy:.3f}{best_suffix}"
    stage.emit(
        f"{method}: iteration {record.iteration}{validated}",
        once=f"{method}-round-{record.iteration}",
        method=method,
        iteration=record.iteration,
        **({} if accuracy is None else {"validation": accuracy}),
        judge=record.judge_metrics,
    )
    if record.negative_metrics:
        emit_negatives(stage, method, record)
    if record.judge_metrics:
        emit_judge_health(stage, method, record.iteration, record)


def emit_negatives(stage: StageContext, method: str, record: IterationFinished) -> None:
    """What the negatives of an iteration were, and how many of them acted."""
    metrics = record.negative_metrics
    stage.emit_metrics(
        f"{method}: {_describe_negatives(metrics)}",
        once=f"{method}-negatives-{record.iteration}",
        method=method,
        iteration=record.iteration,
        negatives=metrics,
    )
    if metrics.get("temperature_share", 1.0) < MIN_SHARE_IN_FORCE:
        stage.events.append(
            stage.job.id,
            f"{method}: {_describe_temperature_share(metrics)}",
            level="warn",
            data={"negatives": metrics},
            once=f"{method}-no-temperature-{record.iteration}",
        )


def _describe_negatives(metrics: Mapping[str, float]) -> str:
    parts = [f"{metrics['negatives']:.0f} negatives"]
    if minority := metrics.get("teacher_negatives"):
        parts.append(f" ({minority:.0f} of the teacher's minority)")
    if "samples" in metrics:
        parts.append(f" of {metrics['samples']:.0f} samples")
    if "temperature" in metrics:
        parts.append(f" at temperature {metrics['temperature']:g}")
    parts.append(f", in force in {metrics['in_force_share']:.0%} of the questions")
    if "samples" in metrics:
        parts.append(f"; {_describe_samples(metrics)}")
    if positive := metrics.get("positive_gradient"):
        share = metrics["negative_gradient"] / positive
        parts.append(f"; their gradient's norm is {share:.0%} of the positives'")
    return "".join(parts)


def _describe_samples(metrics: Mapping[str, float]) -> str:
    unsure = metrics.get("unsure_share", 0.0)
    return (
        f"{metrics['right_share']:.0%} of the samples right, {metrics['wrong_share']:.0%} wrong, "
        + (f"{unsure:.0%} against a vote that is not clear, " if unsure else "")
        + f"{metrics['unread_share']:.0%} without an answer, {metrics['cut_share']:.0%} cut"
    )


def _describe_temperature_share(metrics: Mapping[str, float]) -> str:
    if metrics.get("temperature_usable") == 0:
        return (
            "`negatives.temperature: auto` found no usable sample at any temperature: none was "
            "whole, kept by `negatives.filter`, and with an answer where the positives have one "
            f"({_describe_samples(metrics)}); raise `hyperparameters.max_rationale_tokens` where "
            "they are cut, or set `negatives.filter: none` where they have no answer"
        )
    return (
        "at no temperature is a quarter of the samples usable and half of them below the margin "
        f"({metrics['temperature_share']:.0%} at the lowest, which is taken); raise "
        "`hyperparameters.max_rationale_tokens` where samples are cut, else "
        "`loss.delta`, or set it relative to the positive: `{over_positive: 2}`"
    )


def warn_about_dropped_samples(stage: StageContext, method: str) -> None:
    """One event before a training whose filter goes by answers where there are none."""
    stage.events.append(
        stage.job.id,
        f"{method}: `negatives.filter: wrong_only` keeps samples by their answers, and most "
        "rationales that the student learns end in none that can be read: hardly a sample will be "
        "kept. Set `negatives.filter: none`, or take rationales that end in their answer, such as "
        "`So the answer is (a)`",
        level="warn",
        data={"method": method},
        once=f"{method}-filter-drops-all",
    )


class InertNegatives:
    """Warns once per method when its negatives cost their sampling and change nothing: none, or
    hardly any in force, in two iterations after each other."""

    def __init__(self, stage: StageContext, method: str) -> None:
        self._stage = stage
        self._method = method
        self._was_inert = False

    def watch(self, metrics: Mapping[str, float]) -> None:
        """Take note of an iteration's negatives, if its method uses any."""
        if "negatives" not in metrics:
            return
        none, is_inert = not metrics["negatives"], metrics["in_force_share"] < INERT_SHARE
        was_inert, self._was_inert = self._was_inert, none or is_inert
        if not (was_inert and self._was_inert):
            return
        self._stage.events.append(
            self._stage.job.id,
            f"{self._method}: {_describe_none(metrics) if none else _describe_inert(metrics)}",
            level="warn",
            data={"negatives": dict(metrics)},
            once=f"{self._method}-{'no-negatives' if none else 'inert'}",
        )


def _describe_inert(metrics: Mapping[str, float]) -> str:
    return (
        f"less than {INERT_SHARE:.0%} of the negatives were in force for two "
        f"iterations (median cross entropy {metrics.get('ce_median', float('nan')):.1f} nats "
        "per token): they are paid for and change nothing. `negatives.temperature: auto` finds "
        "one at which they act; `loss.delta: {over_positive: 2}` sets the margin by the "
        "positive"
    )


def _describe_none(metrics: Mapping[str, float]) -> str:
    if "samples" not in metrics:
        return (
            "no question has a negative: the teacher's minority left none. More samples per "
            "question (`rationales.n`), or `negatives.source: student_lag`, give some"
        )
    return (
        f"none of {metrics['samples']:.0f} samples was left as a negative for two iterations "
        f"({_describe_samples(metrics)}): they are paid for and change nothing. "
        "`negatives.filter: none` keeps what has no answer"
    )


def emit_judge_health(
    stage: StageContext, method: str, iteration: int, record: JudgePretrained | IterationFinished
) -> None:
    """How the judge stands that iteration `iteration` trained with; 0 is the pretrained one."""
    histograms = record.histograms.model_dump(mode="json") if record.histograms else None
    auc_text = (
        f"{record.judge_metrics['auc']:.3f}" if "auc" in record.judge_metrics else "not measurable"
    )
    stage.emit_metrics(
        f"{method}: judge of iteration {iteration}, AUC {auc_text}",
        once=f"{method}-judge-{iteration}",
        method=method,
        iteration=iteration,
        judge=record.judge_metrics,
        histograms=histograms,
    )
    if has_collapsed(record.judge_metrics):
        stage.events.append(
            stage.job.id,
            "the judge no longer tells right from wrong (AUC "
            f"{record.judge_metrics['alarm_auc']:.2f} on "
            f"{record.judge_metrics['alarm_negatives']:.0f} negatives); "
            "try `discriminator.loss: bce`, more `pretrain_steps` or a lower `learning_rate`",
            level="warn",
            data={"judge": record.judge_metrics},
            once=f"{method}-collapsed-{iteration}",
        )
    if saw_no_real_negative(record.judge_metrics):
        stage.events.append(
            stage.job.id,
            _describe_missing_negatives(record.judge_metrics),
            level="warn",
            data={"judge": record.judge_metrics},
            once=f"{method}-no-real-negatives",
        )


def _describe_missing_negatives(metrics: Mapping[str, float]) -> str:
    message = (
        "the judge had no wrong teacher output to learn from: it tells corrupted texts from whole "
        "ones, and not right from wrong; more samples per question (`rationales.n`), or "
        "`rationales.positive_rule: gold` with several of them, give it some"
    )
    if alone := metrics.get("questions_without_positives"):
        message += (
            f". {alone:.0f} questions have wrong outputs and no right one beside them, which it "
            "could not use"
        )
    return message


def tell_measuring(stage: StageContext, method: str, doing: str) -> None:
    """What the finished student is asked, which may take as long as its training did."""
    stage.emit(f"{method}: {doing}", once=f"{method}-{doing}", method=method)


def emit_result(stage: StageContext, method: str, result: StudentResult, task: TaskSpec) -> None:
    accuracy: Accuracy = result.test or result.validation
    name = "test" if result.test else "validation"
    stage.emit(
        f"{method}: {name} accuracy {accuracy.accuracy:.3f} "
        f"[{accuracy.low:.3f}, {accuracy.high:.3f}], n = {accuracy.n}",
        once=f"{method}-result",
        method=method,
        accuracy=accuracy.accuracy,
        unparseable=sum(p.answer is None for p in result.predictions),
        answer_kind=task.answer.value,
    )
