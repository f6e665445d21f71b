"""Printing: results go to standard output, everything else to standard error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qcrd.errors import Invalid, QcrdError

EXIT_INVALID_INPUT = 2
EXIT_FAILED = 1


NON_TERMINAL_WIDTH = 160
"""Columns when the output is no terminal: wide enough that no id is cut."""


def stdout_console() -> Console:
    return _make_console(stderr=False)


def stderr_console() -> Console:
    return _make_console(stderr=True)


def _make_console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = NON_TERMINAL_WIDTH
    return console


def print_note(text: str) -> None:
    stderr_console().print(escape(text), soft_wrap=True)


def make_table(*columns: str, no_wrap_columns: int = 0, title: str | None = None) -> Table:
    """The first `no_wrap_columns` (ids, names) are never cut or wrapped."""
    result = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        result.add_column(column, no_wrap=index < no_wrap_columns, overflow="fold")
    return result


def print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


@contextmanager
def exit_on_errors() -> Iterator[None]:
    """Print a `QcrdError` as its message and exit with its code."""
    try:
        yield
    except QcrdError as error:
        names_field = error.param is None or error.param in error.message
        text = error.message if names_field else f"{error.message} (field `{error.param}`)"
        stderr_console().print(f"[bold red]error:[/] {escape(text)}", soft_wrap=True)
        raise typer.Exit(
            EXIT_INVALID_INPUT if isinstance(error, Invalid) else EXIT_FAILED
        ) from error
    except httpx2.InvalidURL as error:
        stderr_console().print(f"[bold red]error:[/] --api: {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(EXIT_INVALID_INPUT) from error
