"""The commands of `qcrd`, and the error handling around them."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from qcrd import __version__
from qcrd.cli.commands import jobs, keys, maintenance, migrate, models, specs, stack, studies
from qcrd.cli.commands.doctor import doctor
from qcrd.cli.commands.estimate import estimate
from qcrd.cli.commands.examples import examples
from qcrd.cli.commands.init import init
from qcrd.cli.commands.plan import plan
from qcrd.cli.commands.run import run
from qcrd.cli.output.terminal import exit_on_errors


class _ErrorHandlingGroup(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        with exit_on_errors():
            return super().invoke(ctx)


app = typer.Typer(
    cls=_ErrorHandlingGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"qcrd {__version__}")
        raise typer.Exit


@app.callback()
def show_version(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and end."
        ),
    ] = False,
) -> None:
    """Distil a large teacher's reasoning into a small model (QCRD)."""


app.command()(stack.up)
app.command()(stack.down)
app.command()(stack.status)
app.command()(init)
app.command()(examples)
app.command()(estimate)
app.command()(plan)
app.command()(run)
app.command()(studies.study)
app.add_typer(jobs.app, name="jobs")
app.add_typer(studies.app, name="studies")
app.add_typer(models.app, name="models")
app.add_typer(specs.app, name="spec")
app.add_typer(migrate.app, name="migrate")
app.add_typer(keys.app, name="keys")
app.command()(doctor)
app.command()(maintenance.gc)
app.command()(maintenance.backup)
app.command()(maintenance.restore)
app.command()(maintenance.rebuild)
