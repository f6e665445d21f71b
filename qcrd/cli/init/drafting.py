"""The job of a file that was looked at, settled by reading the file through it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from qcrd.cli.init import draft
from qcrd.cli.init.look import DataLook
from qcrd.errors import Invalid
from qcrd.questions.preview import Preview, preview_job
from qcrd.records.base import parse_record
from qcrd.records.specs.spec import JobSpec

DEFAULT_MODEL = "all-MiniLM-L6-v2"
"""Comes with the stack of `qcrd up`, so that a first job needs no download."""
BYTES_PER_TOKEN, DEFAULT_LABEL_TOKENS, MOST_LABEL_TOKENS = 3, 32, 512
LABEL_ERRORS = frozenset({"invalid_label", "same_label"})
UNREADABLE = frozenset({"mostly_unreadable", "nothing_readable"})
ADVICE = {
    "missing_label": "name another column with --label, or take these records out of the file",
    "duplicate_question": "ask for what tells them apart: --question '{a}\\n{b}'",
    "missing_choices": "name the column of the options with --field choices=COLUMN",
    "unknown_column": "name the column as it stands there",
    "mostly_unreadable": "say where their answers are with --answers",
    "nothing_readable": "say where their answers are with --answers",
    "invalid_label": "name the column of the right answer with --label, a part of one by its mark "
    "(--label 'solution >> ####'), or the options with --field choices=COLUMN",
    **dict.fromkeys(
        ("broken_json", "broken_csv", "broken_parquet", "not_utf8", "not_data", "twice"),
        "mend that file",
    ),
}


@dataclass(frozen=True)
class Settled:
    """A job that reads its files. `notes` say what was changed until it did."""

    job: draft.JobDraft
    preview: Preview
    notes: tuple[str, ...] = ()


def make_draft(
    splits: dict[str, Path],
    found: DataLook,
    model: str,
    output: Path,
    answers: str | None = None,
) -> draft.JobDraft:
    """The job of a file that was looked at, whose paths are told from `output`'s folder."""
    kind = found.answers.get_kind(has_choices=found.guess.has_choices)
    folder = output.absolute().parent
    files = {name: _shorten_path(path, folder) for name, path in splits.items()}
    longest = min(MOST_LABEL_TOKENS, -(-found.answers.longest // BYTES_PER_TOKEN))
    return draft.JobDraft(
        model=model,
        answer=kind,
        labels=found.answers.labels if kind == "label" else [],
        fields=found.guess.fields,
        has_outputs=found.outputs > 0,
        answers=answers or "auto",
        label_mode="gold" if found.answers.count else "llm",
        max_label_tokens=longest if longest > DEFAULT_LABEL_TOKENS else None,
        has_new_decoder=model == DEFAULT_MODEL,
        **files,
    )


def _shorten_path(path: Path, folder: Path) -> str:
    """As the YAML names it: from its own folder where the file is below it."""
    full = path.absolute()
    return str(full.relative_to(folder)) if full.is_relative_to(folder) else str(full)


def settle(wanted: draft.JobDraft, found: DataLook, output: Path, method: str = "qcrd") -> Settled:
    """The first of `wanted` and what is near it that reads the files, by the code of the server.
    `Invalid`, with the option that mends it, where none does."""
    refused: Invalid | None = None
    notes: list[str] = []
    for job in _iter_near(wanted):
        if refused is not None and not _may_mend(refused, wanted, job):
            continue
        try:
            preview = _read_through(job, output, method)
        except Invalid as error:
            refused = refused or error
            continue
        if refused is not None:
            notes.append(f"{_name_change(wanted, job)}: {refused.message}")
        return Settled(job, preview, tuple(notes))
    assert refused is not None
    columns = ", ".join(found.columns)
    advice = ADVICE.get(refused.code or "", "name the columns with --question, --label and --field")
    raise Invalid(
        f"{refused.message}. Nothing was written: the columns are {columns}; {advice}",
        code=refused.code,
    )


def _iter_near(wanted: draft.JobDraft) -> Iterator[draft.JobDraft]:
    """Of the kinds of answers, those that take more; then the last value of each output."""
    yield wanted
    if wanted.answer in ("number", "math"):
        for kind in ("math", "text"):
            if kind != wanted.answer:
                yield replace(wanted, answer=kind)
    if wanted.answer == "label":
        yield replace(wanted, answer="text", labels=[])
    if wanted.has_outputs and wanted.answers == "auto":
        yield replace(wanted, answers="last")


def _may_mend(refused: Invalid, wanted: draft.JobDraft, job: draft.JobDraft) -> bool:
    return (
        (refused.code in UNREADABLE)
        if job.answers != wanted.answers
        else (refused.code in LABEL_ERRORS)
    )


def _name_change(wanted: draft.JobDraft, job: draft.JobDraft) -> str:
    if job.answers != wanted.answers:
        return f"answers: {job.answers}, as of {wanted.answers}"
    return f"answer: {job.answer}, as of {wanted.answer}"


def _read_through(job: draft.JobDraft, output: Path, method: str) -> Preview:
    spec = parse_record(JobSpec, yaml.safe_load(draft.render(job, method)))
    folder = output.absolute().parent
    return preview_job(spec, lambda name: (folder / name).open("rb"))
