"""`qcrd spec`: check a YAML spec without a server, and describe what one may have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qcrd.cli.output.terminal import print_note
from qcrd.cli.spec import read_job_spec, read_study_spec
from qcrd.cli.yaml_source import read_yaml
from qcrd.records.specs.spec_schema import dump_spec_schema, render_reference

app = typer.Typer(no_args_is_help=True, help="Check and describe specs.")


@app.command()
def validate(
    spec: Annotated[Path, typer.Argument(metavar="SPEC", help="A job or a study, as YAML.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder of its files. [default: that of SPEC]")
    ] = None,
) -> None:
    """Check a job or a study: its fields, and that its files are there. Asks no server."""
    body = read_yaml(spec).value
    is_study = isinstance(body, dict) and "job" in body
    draft = (read_study_spec if is_study else read_job_spec)(spec, data)
    kind, files = "study" if is_study else "job", ", ".join(str(each.path) for each in draft.files)
    print_note(f"{spec} is a {kind} that a server can take; files: {files}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of a job's spec."""
    typer.echo(dump_spec_schema(), nl=False)


@app.command()
def reference() -> None:
    """Print docs/spec.md: every field with its default and bounds."""
    typer.echo(render_reference(), nl=False)
