"""`qcrd migrate openai`: distil what an OpenAI fine-tuning job was trained on, and compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from qcrd.cli.commands.run import run
from qcrd.cli.connect import ApiOption
from qcrd.cli.init import draft
from qcrd.cli.init.drafting import DEFAULT_MODEL, make_draft, settle
from qcrd.cli.init.look import look
from qcrd.cli.init.migration import join_recorded, read_chats, write_lines
from qcrd.cli.output.preview import print_preview
from qcrd.cli.output.terminal import print_note
from qcrd.errors import Invalid

app = typer.Typer(no_args_is_help=True, help="Bring fine-tuning jobs of others here.")


@app.callback()
def _group() -> None:
    """Keep `openai` a command of its own, also while it is the only one."""


@app.command()
def openai(
    training: Annotated[Path, typer.Argument(metavar="TRAIN", help="The training file, as it is.")],
    test: Annotated[
        Path | None, typer.Option(help="Chats that were held out, with the right replies.")
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(help="The same chats with the replies that the tuned model gave."),
    ] = None,
    model: Annotated[str, typer.Option(help="Base of the student.")] = DEFAULT_MODEL,
    output: Annotated[Path, typer.Option(help="Folder for the job and its files.")] = Path(
        "migrated"
    ),
    start: Annotated[
        bool, typer.Option("--run/--no-run", help="Run the job, and print old against new.")
    ] = True,
    api: ApiOption = None,
) -> None:
    """Write the job of an OpenAI training file and run it. With held-out chats and the tuned
    model's recorded replies the report compares: its teacher is the old model."""
    if answers is not None and test is None:
        raise Invalid("--answers are compared on held-out chats: name them with --test")
    output.mkdir(parents=True, exist_ok=True)
    splits = {"training_file": training}
    if test is not None:
        splits["test_file"] = _write_test_file(test, answers, output)
    found = look(training, {})
    if found.guess.form is None:
        raise Invalid(f"{training}: no file of OpenAI's: for other data there is `qcrd init`")
    job = make_draft(splits, found, model, output / "job.yaml")
    path = output / "job.yaml"
    method = "dss" if job.has_outputs else "finetune"
    settled = settle(job, found, path, method)
    path.write_text(draft.render(settled.job, method), "utf-8")
    print_preview(settled.preview)
    print_note(f"wrote {path}: {found.records:,} chats to learn from")
    if start:
        run(path, None, output / "report.json", api=api)


def _write_test_file(test: Path, answers: Path | None, folder: Path) -> Path:
    recorded: dict[str, Any] = {}
    if answers is not None:
        recorded = {question: reply for question, reply in read_chats(answers) if reply}
    lines = join_recorded(read_chats(test), recorded)
    told = sum("teacher_output" in line for line in lines)
    if answers is not None and not told:
        raise Invalid(f"--answers: none of the chats in {answers} is one of those in {test}")
    path = folder / "test.jsonl"
    write_lines(path, lines)
    print_note(f"wrote {path}: {len(lines):,} held-out chats, {told:,} with the old model's reply")
    return path
