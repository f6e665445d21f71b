"""`qcrd spec`: check a YAML spec without a server, and describe what one may have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from qcrd.cli.output.preview import print_preview
from qcrd.cli.output.terminal import print_note
from qcrd.cli.spec import FILE_ID, SpecDraft, read_job_spec, read_study_spec
from qcrd.cli.yaml_source import read_yaml
from qcrd.errors import Invalid
from qcrd.questions.preview import preview_job
from qcrd.records.base import parse_record
from qcrd.records.specs.spec import JobSpec
from qcrd.records.specs.spec_schema import dump_spec_schema, render_reference

app = typer.Typer(no_args_is_help=True, help="Check and describe specs.")


@app.command()
def validate(
    spec: Annotated[
        Path,
        typer.Argument(
            metavar="SPEC", help="A job or a study, as YAML, or a request of OpenAI's, as JSON."
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of its files, or a file to read as its training file."),
    ] = None,
    read: Annotated[
        bool, typer.Option("--read/--no-read", help="Read the files as the job would.")
    ] = True,
) -> None:
    """Check a job or a study: its fields, and what it makes of its files. Asks no server."""
    body = read_yaml(spec).value
    is_study = isinstance(body, dict) and "job" in body
    if data is not None and data.is_file():
        draft = _read_without_files(spec, data, is_study=is_study)
    else:
        draft = (read_study_spec if is_study else read_job_spec)(spec, data)
    if draft.translated is not None:
        _tell_translation(draft.translated)
    if read:
        _preview(draft, is_study=is_study)
    kind = "study" if is_study else "job"
    files = ", ".join(dict.fromkeys(str(each.path) for each in draft.files)) or "on the server"
    print_note(f"{spec} is a {kind} without a fault that shows without a server; files: {files}")


def _read_without_files(spec: Path, data: Path, *, is_study: bool) -> SpecDraft:
    """The spec with `data` as its training file, and as the outputs that it imports of that."""
    if is_study:
        raise Invalid("--data: a study's files are in a folder: name that")
    return read_job_spec(spec, data.parent, training=data)


def _tell_translation(body: dict[str, Any]) -> None:
    """The method that a request of OpenAI's becomes, which its user may want to change."""
    shown = yaml.safe_dump({"method": body["method"]}, sort_keys=False, allow_unicode=True)
    print_note("a request of OpenAI's, which becomes a job with this method:")
    for line in shown.splitlines():
        print_note(f"    {line}")


def _preview(draft: SpecDraft, *, is_study: bool) -> None:
    """Files that are on the server already cannot be read from here."""
    body = draft.body["job"] if is_study else draft.translated or draft.body
    prefix = "job." if is_study else ""
    paths = {each.field.removeprefix(prefix): each.path for each in draft.files}
    if "training_file" not in paths:
        print_note("the training file is on the server, so it is not read here")
        return
    given = {name: value for name, value in body.items() if value is not None}
    job = parse_record(JobSpec, given)
    held_out = [name for name in ("validation_file", "test_file") if name not in paths]
    job = job.model_copy(update=dict.fromkeys(held_out))
    imported = job.settings.rationales.import_file
    if imported is not None and FILE_ID.fullmatch(imported):
        rationales = job.settings.rationales.model_copy(update={"import_file": None})
        settings = job.settings.model_copy(update={"rationales": rationales})
        job = job.model_copy(update={"settings": settings})
    by_name = {_get(body, field): path for field, path in paths.items()}
    print_preview(preview_job(job, lambda name: by_name[name].open("rb")))


def _get(body: dict[str, Any], field: str) -> str:
    value: Any = body
    for step in field.split("."):
        value = value[step]
    return str(value)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a job's spec."""
    typer.echo(dump_spec_schema(), nl=False)


@app.command()
def reference() -> None:
    """Print docs/spec.md: every field with its default and bounds."""
    typer.echo(render_reference(), nl=False)
