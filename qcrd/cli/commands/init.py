"""`qcrd init`: write the YAML of a first job after a look at its data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, get_args

import typer

from qcrd.cli.init import draft
from qcrd.cli.init.columns import Source
from qcrd.cli.init.drafting import DEFAULT_MODEL, make_draft, settle
from qcrd.cli.init.look import DataLook, look
from qcrd.cli.init.splits import find_splits
from qcrd.cli.output.preview import print_preview
from qcrd.cli.output.terminal import print_note
from qcrd.errors import Invalid
from qcrd.records.specs.task import QuestionField


def init(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Training file, or the folder that has it.")
    ],
    output: Annotated[Path, typer.Option(help="Where the job goes.")] = Path("job.yaml"),
    model: Annotated[str | None, typer.Option(help="Base of the student.")] = None,
    question: Annotated[
        str | None, typer.Option(help="Column of the question, or a template: '{a} {b}'.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Column of the right answer.")] = None,
    field: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=COLUMN", help="Another of `task.fields`, such as choices=options."
        ),
    ] = None,
    answers: Annotated[
        str | None, typer.Option(help="Where outputs have their answers: label, parse or last.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace OUTPUT.")] = False,
) -> None:
    """Look at a data file and write the job that distils it. Asks at most three things. The job
    that is written reads the file: it was read through it, by the code of the server."""
    if output.exists() and not force:
        raise Invalid(f"--output: {output} is there already: name another, or use --force")
    splits = find_splits(data)
    given = _read_given(question, label, field or [])
    asks = not yes and sys.stdin.isatty()
    found = look(splits["training_file"], given)
    if found.guess.missing:
        found = _name_missing(splits["training_file"], found, given, asks=asks)
    if model is None:
        model = typer.prompt("Base of the student", DEFAULT_MODEL, err=True) if asks else None
    wanted = make_draft(splits, found, model or DEFAULT_MODEL, output, answers)
    settled = settle(wanted, found, output)
    output.write_text(draft.render(settled.job), encoding="utf-8")
    _tell(found, settled.job)
    for note in settled.notes:
        print_note(note)
    print_preview(settled.preview)
    print_note(f"wrote {output}: look at it, then `qcrd run {output}`")


def _read_given(question: str | None, label: str | None, fields: list[str]) -> dict[str, Source]:
    given: dict[str, Source] = {
        name: source for name, source in (("question", question), ("label", label)) if source
    }
    for each in fields:
        name, found, column = each.partition("=")
        if not found or name not in get_args(QuestionField):
            known = ", ".join(get_args(QuestionField))
            raise Invalid(f"--field: {each!r} is no NAME=COLUMN with a NAME of {known}")
        columns = column.split(",") if "," in column and "{" not in column else column
        given[name] = columns
    return given


def _name_missing(path: Path, found: DataLook, given: dict[str, Source], *, asks: bool) -> DataLook:
    """Ask for the columns that no name tells, or refuse with those that there are."""
    columns = ", ".join(found.columns)
    for name in found.guess.missing:
        if not asks:
            raise Invalid(
                f"{path}: no column looks like the {name}: there are {columns}; name it with "
                f"--{name} COLUMN, or put several together: --{name} '{{a}} {{b}}'"
            )
        given[name] = typer.prompt(f"Which column is the {name}? ({columns})", err=True)
    return look(path, given)


def _tell(found: DataLook, job: draft.JobDraft) -> None:
    print_note(
        f"{job.training_file}: {found.records:,} records, columns {', '.join(found.columns)}"
    )
    if found.guess.form is not None:
        print_note(f"they are {found.guess.form}; the last reply of each is the label")
    for name, source in found.guess.fields.items():
        print_note(f"{name}: {source!r}")
    kinds = f"the answers are of kind {job.answer}: {draft.EXPLAINED[job.answer]}"
    print_note(f"{kinds}" + (f" ({len(job.labels)} labels)" if job.labels else ""))
    if job.has_outputs:
        print_note(f"outputs of {found.outputs:,} records are imported: no teacher is asked")
    if job.label_mode != "gold":
        print_note("no record has a label: the student learns the vote of the teacher")
