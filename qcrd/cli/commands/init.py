"""`qcrd init`: write the YAML of a first job after a look at its data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from qcrd.cli.init import draft
from qcrd.cli.init.columns import Source
from qcrd.cli.init.look import DataLook, find_splits, look
from qcrd.cli.output.terminal import print_note
from qcrd.errors import Invalid

DEFAULT_MODEL = "all-MiniLM-L6-v2"
"""Comes with the stack of `qcrd up`, so that a first job needs no download."""
BYTES_PER_TOKEN, DEFAULT_LABEL_TOKENS, MOST_LABEL_TOKENS = 3, 32, 512
MAX_SHOWN_CHARS = 300


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
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace OUTPUT.")] = False,
) -> None:
    """Look at a data file and write the job that distils it. Asks at most three things."""
    if output.exists() and not force:
        raise Invalid(f"--output: {output} is there already: name another, or use --force")
    splits = find_splits(data)
    given: dict[str, Source] = {
        name: source for name, source in (("question", question), ("label", label)) if source
    }
    asks = not yes and sys.stdin.isatty()
    found = look(splits["training_file"], given)
    if found.guess.missing:
        found = _name_missing(splits["training_file"], found, given, asks=asks)
    if model is None:
        model = typer.prompt("Base of the student", DEFAULT_MODEL, err=True) if asks else None
    job = make_draft(splits, found, model or DEFAULT_MODEL, output)
    output.write_text(draft.render(job), encoding="utf-8")
    _tell(found, job, output)


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


def make_draft(
    splits: dict[str, Path], found: DataLook, model: str, output: Path
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
        max_label_tokens=longest if longest > DEFAULT_LABEL_TOKENS else None,
        has_new_decoder=model == DEFAULT_MODEL,
        **files,
    )


def _shorten_path(path: Path, folder: Path) -> str:
    """As the YAML names it: from its own folder where the file is below it."""
    full = path.absolute()
    return str(full.relative_to(folder)) if full.is_relative_to(folder) else str(full)


def _tell(found: DataLook, job: draft.JobDraft, output: Path) -> None:
    print_note(
        f"{job.training_file}: {found.records:,} records, columns {', '.join(found.columns)}"
    )
    if found.guess.form is not None:
        print_note(f"they are {found.guess.form}; the last reply of each is the label")
    for name, source in found.guess.fields.items():
        print_note(f"{name}: {source!r}")
    kinds = f"the answers are of kind {job.answer}: {draft.EXPLAINED[job.answer]}"
    print_note(f"{kinds}" + (f" ({len(job.labels)} labels)" if job.labels else ""))
    if found.outputs:
        print_note(f"{found.outputs:,} outputs are imported in place of asking a teacher")
    if not found.answers.count:
        print_note("no record has a label: `label_mode: llm` learns the vote of the teacher")
    first = str(dict(found.first))
    print_note(f"the first record: {first[:MAX_SHOWN_CHARS]}{'…' * (len(first) > MAX_SHOWN_CHARS)}")
    print_note(f"wrote {output}: look at it, then `qcrd run {output}`")
