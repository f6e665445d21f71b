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

from qcrd.errors import Invalid, QcrdError

INPUT_IS_WRONG = 2
FAILED = 1


def out() -> Console:
    return Console(highlight=False, soft_wrap=True)


def notes() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


def note(text: str) -> None:
    notes().print(escape(text))


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
        notes().print(f"[bold red]error:[/] {escape(text)}")
        raise typer.Exit(INPUT_IS_WRONG if isinstance(error, Invalid) else FAILED) from error
    except httpx.InvalidURL as error:
        notes().print(f"[bold red]error:[/] --api: not an address: {escape(str(error))}")
        raise typer.Exit(INPUT_IS_WRONG) from error
