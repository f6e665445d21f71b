"""What the commands print: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qcrd.errors import Invalid, QcrdError

INPUT_IS_WRONG = 2
FAILED = 1


WIDTH_OF_A_FILE = 160
"""Columns when the output is no terminal: wide enough that no id is cut."""


def out() -> Console:
    return _console(stderr=False)


def notes() -> Console:
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = WIDTH_OF_A_FILE
    return console


def note(text: str) -> None:
    notes().print(escape(text), soft_wrap=True)


def table(*columns: str, whole: int = 0, title: str | None = None) -> Table:
    """With `whole` first columns (ids, names) that are never cut or wrapped."""
    made = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        made.add_column(column, no_wrap=place < whole, overflow="fold")
    return made


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


@contextmanager
def errors_as_one_line() -> Iterator[None]:
    """The command's boundary: an error of the tree becomes its message and an exit code."""
    try:
        yield
    except QcrdError as error:
        named = error.param is None or error.param in error.message
        text = error.message if named else f"{error.message} (field `{error.param}`)"
        notes().print(f"[bold red]error:[/] {escape(text)}", soft_wrap=True)
        raise typer.Exit(INPUT_IS_WRONG if isinstance(error, Invalid) else FAILED) from error
    except httpx.InvalidURL as error:
        notes().print(f"[bold red]error:[/] --api: {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(INPUT_IS_WRONG) from error
