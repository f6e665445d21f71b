"""Publishing: the student's folder and model card, uploaded with its manifest last."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from qcrd import __version__
from qcrd.method.prompts import EXPLAIN_PREFIX, PREDICT_PREFIX
from qcrd.method.student.base import Student
from qcrd.method.student.lora import merge_adapters
from qcrd.method.training.objectives import OBJECTIVES
from qcrd.records.job import Comparison, Job, PublishedModel, Report
from qcrd.records.prompt_format import PROMPT_FORMAT_FILE, PromptFormat
from qcrd.records.verdicts import describe_one_seed
from qcrd.runtime import keys
from qcrd.runtime.storage.store import Store, write_record

MODEL_CARD_FILE = "README.md"


def model_id(job_id: str) -> str:
    """A job publishes one model; its id is a function of the job's, so a second try replaces it."""
    return f"model-{keys.digest(job_id, 'model')}"


def upload_model(store: Store, job: Job, student: Student) -> None:
    """Upload weights, tokenizer and prompt format. `publish_model` makes it a model."""
    with tempfile.TemporaryDirectory(prefix="qcrd-model-") as scratch:
        folder = Path(scratch)
        merge_adapters(student.model).save_pretrained(folder)
        student.tokenizer.save_pretrained(folder)
        (folder / PROMPT_FORMAT_FILE).write_text(
            make_prompt_format(job, student).model_dump_json(indent=1)
        )
        for path in sorted(folder.iterdir()):
            with path.open("rb") as source:
                key = keys.model_prefix(model_id(job.id)) + path.name
                store.put(key, source, length=path.stat().st_size)


def make_prompt_format(job: Job, student: Student) -> PromptFormat:
    """The prompt format that the student was trained with, for its clients."""
    settings = job.spec.settings
    objective = OBJECTIVES[job.spec.method]
    return PromptFormat(
        predict=PREDICT_PREFIX,
        explain=EXPLAIN_PREFIX if objective.max_positives != 0 else None,
        suffix=student.suffix,
        max_label_tokens=settings.hyperparameters.max_label_tokens,
        max_rationale_tokens=settings.hyperparameters.max_rationale_tokens,
        answer=settings.task.answer,
        labels=settings.task.labels,
        conversation=settings.task.conversation,
        joined=objective.joined,
    )


def publish_model(store: Store, job: Job, report: Report) -> PublishedModel:
    """Write the card, then the manifest, with which the model exists."""
    prefix = keys.model_prefix(model_id(job.id))
    store.put(prefix + MODEL_CARD_FILE, render_model_card(job, report).encode())
    names = [key.removeprefix(prefix) for key in store.list(prefix)]
    manifest = keys.model_manifest_key(model_id(job.id)).removeprefix(prefix)
    model = PublishedModel(
        id=model_id(job.id),
        job_id=job.id,
        created_at=time.time(),
        base=job.spec.model,
        files=tuple(name for name in names if name != manifest),
    )
    write_record(store, keys.model_manifest_key(model.id), model)
    return model


def render_model_card(job: Job, report: Report) -> str:
    """Model card: data, teacher, spec, and every number with its interval."""
    spec = job.spec
    counts = report.rationales
    title = spec.suffix or report.model.id
    return "\n".join(
        [
            "---",
            "library_name: transformers",
            "tags: [qcrd, rationale-distillation]",
            "---",
            f"# {title}",
            "",
            f"Distilled by qcrd {__version__} with the method `{spec.method.value}` from the "
            f"teacher `{spec.settings.teacher}` into `{spec.model}`.",
            "",
            "## Ask it",
            "",
            f"`{PREDICT_PREFIX}<question>` answers with the label; `{EXPLAIN_PREFIX}<question>` "
            "with a rationale "
            f"(only students that learned rationales). `{PROMPT_FORMAT_FILE}` holds both prefixes.",
            "",
            "## Measured on the test set",
            "",
            *_render_accuracy_table(report),
            "",
            "Intervals are 95 % Wilson score intervals of one run. The student was chosen on "
            "validation questions, never on the test set.",
            "",
            *_render_comparisons(report),
            "## Data",
            "",
            f"- training file `{spec.training_file}`: {counts.questions} questions, "
            f"{counts.outputs} teacher outputs, {counts.unparseable} unparseable",
            f"- the vote was right for {counts.majority_right} questions and wrong for "
            f"{counts.majority_wrong}; {counts.ties} ties",
            f"- {counts.positives} positive and {counts.negatives} negative teacher rationales",
            f"- test file `{spec.test_file}`" if spec.test_file else "- no test file",
            "",
            "## Spec",
            "",
            "```json",
            # The webhook's URL is private to the job's owner and the gateway.
            spec.model_dump_json(indent=1, by_alias=True, exclude={"webhook"}),
            "```",
            "",
        ]
    )


def _render_comparisons(report: Report) -> list[str]:
    """The report's comparisons, and the share of test questions that could be memorised."""
    lines: list[str] = []
    if report.comparisons:
        lines += [
            "## Compared on the same test questions",
            "",
            "| method | baseline | difference | 95 % interval | n | only this | only baseline | |",
            "|---|---|---|---|---|---|---|---|",
            *map(_render_comparison_row, report.comparisons),
            "",
            f"Intervals are those of {report.comparisons[0].draws:,} paired bootstrap samples "
            f"(percentiles, seed {report.comparisons[0].seed}); McNemar's p is exact and "
            "two-sided. All of it is about these students, on these questions. The methods: "
            f"{describe_one_seed(one.seeds_needed for one in report.comparisons)}.",
            "",
        ]
    if report.leak is not None:
        leak = report.leak
        lines += [
            f"Of {leak.n_test} test questions {leak.n_leaked} have a story that also occurs in "
            f"training under other numbers, {leak.n_exact} of them word for word.",
            "",
        ]
    return lines


def _render_comparison_row(comparison: Comparison) -> str:
    interval = f"{comparison.low:+.3f} to {comparison.high:+.3f}"
    names = f"| {comparison.method} | {comparison.baseline}"
    numbers = f"{comparison.difference:+.3f} | {interval} | {comparison.n}"
    counts = f"{comparison.only_method} | {comparison.only_baseline}"
    return f"{names} | {numbers} | {counts} | {comparison.statement} |"


def _render_accuracy_table(report: Report) -> list[str]:
    rows = report.test or report.validation
    lines = ["| | accuracy | 95 % interval | n | steps | tokens |", "|---|---|---|---|---|---|"]
    for name, row in rows.items():
        interval = f"{row.low:.3f} to {row.high:.3f}"
        cost = f"{row.steps or ''} | {row.tokens or ''}"
        lines.append(f"| {name} | {row.accuracy:.3f} | {interval} | {row.n} | {cost} |")
    return lines if report.test else ["No test file was given; on validation:", "", *lines]
