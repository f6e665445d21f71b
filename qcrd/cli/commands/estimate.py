"""`qcrd estimate`: estimate a job's teacher usage, cost and time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from qcrd.cli import spec
from qcrd.cli.commands.run import upload_files
from qcrd.cli.connect import ApiOption, connect_gateway
from qcrd.cli.output.terminal import EXIT_FAILED, print_json, print_note, stdout_console


def estimate(
    job: Annotated[Path, typer.Argument(metavar="SPEC", help="The job, as YAML.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder of the job's files. (default: that of SPEC)")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As the REST API gives it.")] = False,
    api: ApiOption = None,
) -> None:
    """Estimate what a job costs; exit code 1 if its budget is not enough. Creates no job."""
    draft = spec.read_job_spec(job, data)
    gateway = connect_gateway(api)
    result = gateway.estimate_job(draft.with_file_ids(upload_files(gateway, draft)))
    if as_json:
        print_json(result)
    else:
        _show_estimate(result)
    if result["budget"]["fits"] is False:
        print_note(f"the budget is not enough: {result['budget']['message']}")
        raise typer.Exit(EXIT_FAILED)


def _show_estimate(result: dict[str, Any]) -> None:
    teacher = result["teacher"]
    table = Table(show_header=False)
    outputs = f"{teacher['asked']:,} of {teacher['outputs']:,}; {teacher['reused']:,} reused"
    table.add_row("teacher outputs", outputs)
    table.add_row("prompt tokens", _format_prompt(teacher))
    table.add_row("completion tokens", _format_completion(teacher))
    table.add_row("cost", _format_cost(teacher))
    table.add_row("training steps", f"{result['training_steps']:,}")
    for stage in ("assembling", "training"):
        seconds = result[f"{stage}_seconds"]
        table.add_row(stage, "not known yet" if seconds is None else f"about {seconds:,.0f} s")
    if (share := result.get("untrained_share")) is not None:
        table.add_row("untrained student", f"negatives of {share:.0%} of the training are its")
    if "lengths" in result:
        table.add_row("prompts", result["lengths"]["message"])
    table.add_row("budget", result["budget"]["message"])
    stdout_console().print(table)
    for line in (*teacher["basis"], *result["basis"]):
        stdout_console().print(f"- {escape(line)}")


def _format_prompt(teacher: dict[str, Any]) -> str:
    expected, most = teacher["prompt_tokens"], teacher.get("prompt_tokens_at_most")
    known = f"{expected:,}"
    return known if most in (None, expected) else f"about {known}, at most {most:,}"


def _format_completion(teacher: dict[str, Any]) -> str:
    most = f"at most {teacher['completion_tokens_at_most']:,}"
    expected = teacher["completion_tokens"]
    return most if expected is None else f"about {expected:,}, {most}"


def _format_cost(teacher: dict[str, Any]) -> str:
    if teacher["currency"] is None:
        return "the teacher has no prices (QCRD_TEACHERS)"
    most = f"at most {teacher['cost_at_most']:.4f} {teacher['currency']}"
    return most if teacher["cost"] is None else f"about {teacher['cost']:.4f}, {most}"
