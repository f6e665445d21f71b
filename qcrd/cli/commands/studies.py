"""`qcrd study`: run a study from its YAML. `qcrd studies`: list, show and control studies."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from qcrd.cli import spec
from qcrd.cli.commands.jobs import JsonOption, format_time
from qcrd.cli.commands.run import EXIT_INTERRUPTED, check_writable, upload_files
from qcrd.cli.connect import ApiOption, connect_gateway
from qcrd.cli.output import terminal
from qcrd.cli.output.study_progress import (
    StudyDisplay,
    format_job_name,
    format_job_state,
    open_study_display,
)
from qcrd.cli.output.terminal import (
    EXIT_FAILED,
    print_json,
    print_note,
    stderr_console,
    stdout_console,
)
from qcrd.client.follow import poll_through_outages
from qcrd.client.gateway import GatewayClient
from qcrd.records.job import JobStatus
from qcrd.records.reports.verdicts import MIN_SEEDS, Verdict
from qcrd.records.study import StudyStatus

app = typer.Typer(no_args_is_help=True, help="List, show and cancel studies.")

StudyId = Annotated[str, typer.Argument(metavar="STUDY")]


def study(
    study_spec: Annotated[Path, typer.Argument(metavar="SPEC", help="The study, as YAML.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder of the job's files. (default: that of SPEC)")
    ] = None,
    report_file: Annotated[
        Path | None, typer.Option("--report", help="Write the table there, as JSON.")
    ] = None,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="Write the plot there, as SVG.")
    ] = None,
    api: ApiOption = None,
) -> None:
    """Train several methods under several seeds on one rationale set, and compare them."""
    draft = spec.read_study_spec(study_spec, data)
    for option, path in (("--report", report_file), ("--plot", plot_file)):
        if path is not None:
            check_writable(path, option)
    gateway = connect_gateway(api)
    created = gateway.create_study(draft.with_file_ids(upload_files(gateway, draft)))
    print_note(f"study {created['id']} of {len(created['jobs'])} jobs created; following it")
    if len(created["seeds"]) < MIN_SEEDS:
        print_note(
            f"{len(created['seeds'])} of the {MIN_SEEDS} seeds that it takes to tell which method "
            f"is better: the verdict will be {Verdict.CANNOT_TELL.value!r}"
        )
    finished = _follow_on_terminal(gateway, created["id"])
    _show_result(gateway, finished, report_file, plot_file)


def _follow_on_terminal(gateway: GatewayClient, study_id: str) -> dict[str, Any]:
    try:
        with open_study_display(stderr_console()) as progress_display:
            return follow_study(gateway, study_id, progress_display)
    except KeyboardInterrupt:
        print_note(f"study {study_id} keeps running")
        print_note(f"  qcrd studies show {study_id}    shows its jobs and its table so far")
        print_note(f"  qcrd studies cancel {study_id}  ends it; what has succeeded is kept")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def follow_study(gateway: GatewayClient, study_id: str, display: StudyDisplay) -> dict[str, Any]:
    """Return the study when its jobs have finished. Retries while the gateway is down."""
    states = poll_through_outages(lambda: gateway.get_study(study_id), display.show_outage)
    while True:
        current = next(states)
        if current is not None:
            display.show_study(current)
            if current["status"] != StudyStatus.RUNNING:
                return current
        time.sleep(gateway.intervals.poll_study)


def _show_result(
    gateway: GatewayClient, study: dict[str, Any], report_file: Path | None, plot_file: Path | None
) -> None:
    """Print the table and the failures; exit code 1 unless every job has succeeded."""
    stdout_console().print(escape(gateway.get_study_table(study["id"], "markdown")), soft_wrap=True)
    if report_file is not None:
        table = json.loads(gateway.get_study_table(study["id"], "json"))
        _write_file(report_file, json.dumps(table, indent=2, ensure_ascii=False) + "\n")
    if plot_file is not None:
        _write_file(plot_file, gateway.get_study_table(study["id"], "svg"))
    _show_failures(study["jobs"])
    if study["status"] != StudyStatus.SUCCEEDED:
        text = f"the study {study['id']} is {study['status']}"
        stderr_console().print(f"[bold red]error:[/] {escape(text)}", soft_wrap=True)
        raise typer.Exit(EXIT_FAILED)


def _write_file(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    print_note(f"written to {path}")


def _show_failures(jobs: list[dict[str, Any]]) -> None:
    for job in jobs:
        if job["status"] in (None, JobStatus.FAILED, JobStatus.CANCELLED):
            reason = f": {job['error']}" if job["error"] else ""
            print_note(
                f"{format_job_name(job)} ({job['id']}) {job['status'] or 'is missing'}{reason}"
            )


@app.command("list")
def list_studies(
    limit: Annotated[int, typer.Option(min=1, help="The newest ones.")] = 20,
    as_json: JsonOption = False,
    api: ApiOption = None,
) -> None:
    """List studies, newest first."""
    studies = connect_gateway(api).list_studies(limit)
    if as_json:
        print_json(studies)
        return
    table = terminal.make_table("study", "created", "methods", "seeds", "state", no_wrap_columns=1)
    for entry in studies:
        seeds = ", ".join(map(str, entry["seeds"]))
        row = (
            entry["id"],
            format_time(entry["created_at"]),
            ", ".join(entry["methods"]),
            seeds,
            entry["status"],
        )
        table.add_row(*map(escape, row))
    stdout_console().print(table)


@app.command()
def show(study_id: StudyId, as_json: JsonOption = False, api: ApiOption = None) -> None:
    """Show a study's jobs and its table so far."""
    gateway = connect_gateway(api)
    current = gateway.get_study(study_id, table=as_json)
    if as_json:
        print_json(current)
        return
    jobs = terminal.make_table("job", "method", "seed", "trial", "state", no_wrap_columns=1)
    for job in current["jobs"]:
        trial = job.get("trial")
        jobs.add_row(
            job["id"],
            escape(job["method"]),
            str(job["seed"]),
            "" if trial is None else str(trial),
            escape(format_job_state(job)),
        )
    stdout_console().print(jobs)
    stdout_console().print(escape(gateway.get_study_table(study_id, "markdown")), soft_wrap=True)
    _show_failures(current["jobs"])


@app.command()
def cancel(study_id: StudyId, api: ApiOption = None) -> None:
    """Cancel a study's jobs. Succeeded ones are kept, also in the table."""
    ended = connect_gateway(api).cancel_study(study_id)
    print_note(f"the study {study_id} is {ended['status']}")


@app.command()
def resume(study_id: StudyId, api: ApiOption = None) -> None:
    """Create the jobs that are missing because the gateway died meanwhile."""
    resumed = connect_gateway(api).resume_study(study_id)
    print_note(f"the study {study_id} is {resumed['status']}")
