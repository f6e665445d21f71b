"""`qcrd examples`: the demo and the other example specs, as files of one's own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from qcrd.cli.output.terminal import print_note, stdout_console
from qcrd.errors import Conflict, Invalid

EXAMPLES = Path(__file__).parents[1] / "examples"


def examples(
    to: Annotated[Path, typer.Option(help="Folder to make.")] = Path("examples"),
) -> None:
    """Copy the example specs and the demo's questions into a folder of this machine."""
    if to.exists() and to.resolve() == EXAMPLES.resolve():
        _print_specs(to)
        return
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise Conflict(f"--to: {to} exists and is not an empty folder: name another one")
    try:
        shutil.copytree(EXAMPLES, to, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__py*"))
    except OSError as error:
        raise Invalid(f"--to: cannot write {to}: {error.strerror}") from error
    _print_specs(to)


def _print_specs(to: Path) -> None:
    for spec in sorted(to.glob("*.yaml")):
        stdout_console().print(escape(str(spec)), soft_wrap=True)
    print_note(f"`qcrd up --detach`, then `qcrd run {to / 'demo.yaml'}` runs the demo")
