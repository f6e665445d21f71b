"""The command line: what there is to say, and one boundary around all of it."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from qcrd.cli import job_commands, key_commands, model_commands, stack_commands, study_commands
from qcrd.cli.doctor_command import doctor
from qcrd.cli.estimate_command import estimate
from qcrd.cli.run_command import run
from qcrd.cli.terminal import errors_as_one_line


class _Guarded(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        with errors_as_one_line():
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Guarded,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Distil a large teacher's reasoning into a small model (QCRD).",
)
app.command()(stack_commands.up)
app.command()(stack_commands.down)
app.command()(stack_commands.status)
app.command()(estimate)
app.command()(run)
app.command()(study_commands.study)
app.add_typer(job_commands.app, name="jobs")
app.add_typer(study_commands.app, name="studies")
app.add_typer(model_commands.app, name="models")
app.add_typer(key_commands.app, name="keys")
app.command()(doctor)
