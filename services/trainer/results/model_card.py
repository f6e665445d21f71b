"""The model card: data, teacher, spec, and every number with its interval."""

from __future__ import annotations

import json
from typing import Any

from qcrd import __version__
from qcrd.method.training.objectives import OBJECTIVES
from qcrd.records.job import Job, Report
from qcrd.records.rationales import RationaleCounts
from qcrd.records.reports.accuracy import Comparison
from qcrd.records.reports.verdicts import describe_one_seed
from qcrd.records.specs.spec import JobSpec
from qcrd.records.students.prompt_format import (
    JOINED_ANSWER_PREFIX,
    PROMPT_FORMAT_FILE,
    PromptFormat,
)

OLDEST_TRANSFORMERS = "4.57"
"""With which a test opens a published folder."""


def render_model_card(
    job: Job, report: Report, prompt_format: PromptFormat, *, is_encoder_decoder: bool = False
) -> str:
    """Model card: data, teacher, spec, and every number with its interval."""
    spec = job.spec
    counts = report.rationales
    title = spec.suffix or report.model.id
    return "\n".join(
        [
            "---",
            *_render_metadata(job, report, title, is_encoder_decoder),
            "---",
            f"# {title}",
            "",
            f"Distilled by qcrd {__version__} with the method `{spec.method.value}` from the "
            f"teacher `{spec.settings.teacher}` into `{spec.model}`.",
            "",
            "## Ask it",
            "",
            *_describe_prompts(prompt_format),
            "",
            "## Measured on the test set",
            "",
            *_render_accuracy_table(report),
            "",
            "Intervals are 95 % Wilson score intervals of one run. The student was chosen on "
            "validation questions, never on the test set.",
            "",
            *_render_comparisons(report),
            *_render_doubts(report),
            "## Data",
            "",
            f"- training file `{spec.training_file}`: {counts.questions} questions, "
            f"{counts.outputs} teacher outputs, {counts.unparseable} unparseable",
            _describe_votes(counts),
            f"- {counts.positives} positive and {counts.negatives} negative teacher rationales",
            f"- test file `{spec.test_file}`" if spec.test_file else "- no test file",
            "",
            "## Spec",
            "",
            "```json",
            _render_spec(spec),
            "```",
            "",
        ]
    )


def _render_metadata(job: Job, report: Report, title: str, is_encoder_decoder: bool) -> list[str]:
    """What a hub reads of a card, in YAML: its values are JSON, which is YAML too."""
    task = "text2text-generation" if is_encoder_decoder else "text-generation"
    measured, split, file = (
        (report.test, "test", job.spec.test_file)
        if report.test
        else (report.validation, "validation", job.spec.validation_file or job.spec.training_file)
    )
    metadata: dict[str, Any] = {
        "library_name": "transformers",
        "base_model": job.spec.model,
        "pipeline_tag": task,
        "tags": ["qcrd", "rationale-distillation"],
    }
    if (row := measured.get(job.spec.method.value)) is not None:
        metric = {
            "type": "accuracy",
            "name": f"accuracy, 95 % interval {row.low:.3f} to {row.high:.3f}, n = {row.n}",
            "value": round(row.accuracy, 4),
            "args": {"low": round(row.low, 4), "high": round(row.high, 4), "n": row.n},
        }
        dataset = {"type": "file", "name": file, "split": split}
        result = {"task": {"type": task}, "dataset": dataset, "metrics": [metric]}
        metadata["model-index"] = [{"name": title, "results": [result]}]
    return [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in metadata.items()]


def _render_spec(spec: JobSpec) -> str:
    """The spec without the sections that neither its method nor a baseline reads, and without the
    webhook's URL, which is private to the job's owner and the gateway."""
    methods = [spec.method.value, *(row.value for row in spec.settings.baselines)]
    used = [OBJECTIVES[method] for method in methods]
    unread = set[str]()
    if not any(objective.uses_negatives for objective in used):
        unread.add("negatives")
    if not any(objective.uses_judge for objective in used) and not spec.settings.evaluation.judge:
        unread.add("discriminator")
    return spec.model_dump_json(
        indent=1, by_alias=True, exclude={"webhook": True, "settings": unread}
    )


def _describe_votes(counts: RationaleCounts) -> str:
    """Without a label nothing says which votes are right."""
    if not counts.majority_right + counts.majority_wrong:
        return f"- {counts.ties} ties of the vote, which there were no labels to check by"
    return (
        f"- the vote was right for {counts.majority_right} questions and wrong for "
        f"{counts.majority_wrong}; {counts.ties} ties"
    )


def _describe_prompts(prompt_format: PromptFormat) -> list[str]:
    """How the student is asked, in the words of its prompt format."""
    asked = json.dumps(prompt_format.format_prompt(prompt_format.predict, "QUESTION"))
    if prompt_format.joined:
        said = f"its rationale, `{JOINED_ANSWER_PREFIX}` and its answer"
    else:
        said = "the answer"
    lines = [f"Its prompt is `{asked}`, and it says {said}."]
    if prompt_format.explain is not None:
        explained = json.dumps(prompt_format.format_prompt(prompt_format.explain, "QUESTION"))
        lines.append(f"Under `{explained}` it gives its rationale.")
    if prompt_format.answer_form is not None:
        lines.append("Behind the mark one of the labels is the answer, the likeliest of them.")
    lines += [
        f"`{PROMPT_FORMAT_FILE}` holds all of it; a decoder-only student's own chat template asks "
        "the same.",
        f"The folder loads with transformers from {OLDEST_TRANSFORMERS} on.",
    ]
    return lines


def _render_comparisons(report: Report) -> list[str]:
    """The report's comparisons, and the share of test questions that could be memorised."""
    lines: list[str] = []
    teacher = () if report.against_teacher is None else (report.against_teacher,)
    if compared := (*teacher, *report.comparisons):
        lines += [
            "## Compared on the same test questions",
            "",
            "| method | baseline | difference | 95 % interval | n | only this | only baseline | |",
            "|---|---|---|---|---|---|---|---|",
            *map(_render_comparison_row, compared),
            "",
            f"Intervals are those of {compared[0].draws:,} paired bootstrap samples "
            f"(percentiles, seed {compared[0].seed}); McNemar's p is exact and "
            "two-sided. All of it is about these students, on these questions.",
            "",
        ]
    if report.comparisons:
        told = describe_one_seed(one.seeds_needed for one in report.comparisons)
        lines += [f"The methods: {told}.", ""]
    if report.leak is not None:
        leak = report.leak
        lines += [
            f"Of {leak.n_test} test questions {leak.n_leaked} have a story that also occurs in "
            f"training under other numbers, {leak.n_exact} of them word for word.",
            "",
        ]
    return lines


def _render_doubts(report: Report) -> list[str]:
    """What its answers rest on, and how sure it is of them."""
    told: list[str] = []
    if (answering := report.answering) is not None:
        if answering.swap is not None:
            told.append(f"{answering.swap.statement}.")
        for name, row in answering.rows.items():
            told.append(
                f"`{name}` of {answering.samples} outputs at temperature {answering.temperature}: "
                f"{row.accuracy:.3f} [{row.low:.3f}, {row.high:.3f}], "
                f"{row.answer_tokens or 0:.0f} tokens an answer."
            )
        if answering.judged is not None:
            told.append(f"A judge of its outputs: {answering.judged.statement}.")
    if report.doubt is not None:
        told.append(f"Confidence: {report.doubt.statement}.")
    if report.cascade is not None:
        told.append(f"With its teacher: {report.cascade.statement}.")
    lines = [f"- {line[0].upper()}{line[1:]}" for line in told]
    return ["## Its answers", "", *lines, ""] if lines else []


def _render_comparison_row(comparison: Comparison) -> str:
    interval = f"{comparison.low:+.3f} to {comparison.high:+.3f}"
    names = f"| {comparison.method} | {comparison.baseline}"
    numbers = f"{comparison.difference:+.3f} | {interval} | {comparison.n}"
    counts = f"{comparison.only_method} | {comparison.only_baseline}"
    return f"{names} | {numbers} | {counts} | {comparison.statement} |"


def _render_accuracy_table(report: Report) -> list[str]:
    rows = report.test or report.validation
    lines = [
        "| | accuracy | 95 % interval | n | steps | tokens | tokens an answer |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        interval = f"{row.low:.3f} to {row.high:.3f}"
        answer = "" if row.answer_tokens is None else f"{row.answer_tokens:.1f}"
        cost = f"{row.steps or ''} | {row.tokens or ''} | {answer}"
        lines.append(f"| {name} | {row.accuracy:.3f} | {interval} | {row.n} | {cost} |")
    return lines if report.test else ["No test file was given; on validation:", "", *lines]
