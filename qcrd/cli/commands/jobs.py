"""`qcrd jobs`: list, show, follow and control jobs."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from qcrd.cli.commands.run import follow_on_terminal, show_result, write_html_report
from qcrd.cli.connect import ApiOption, connect_gateway
from qcrd.cli.output import report, terminal
from qcrd.cli.output.progress import format_state
from qcrd.cli.output.terminal import print_json, print_note, stdout_console
from qcrd.client.gateway import JobEvent
from qcrd.errors import Conflict

app = typer.Typer(no_args_is_help=True, help="List, show, follow, pause and end jobs.")

JobId = Annotated[str, typer.Argument(metavar="JOB")]
JsonOption = Annotated[bool, typer.Option("--json", help="As the REST API gives it.")]


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, help="The newest ones.")] = 20,
    as_json: JsonOption = False,
    api: ApiOption = None,
) -> None:
    """List jobs, newest first."""
    jobs = connect_gateway(api).list_jobs(limit)
    if as_json:
        print_json(jobs)
        return
    table = terminal.make_table("job", "created", "method", "state", "model", no_wrap_columns=1)
    for job in jobs:
        row = (job["id"], format_time(job["created_at"]), job["method"]["type"], format_state(job))
        table.add_row(*map(escape, row), escape(job["fine_tuned_model"] or ""))
    stdout_console().print(table)


@app.command()
def show(job_id: JobId, as_json: JsonOption = False, api: ApiOption = None) -> None:
    """Show a job, and its report when it has one."""
    job = connect_gateway(api).get_job(job_id)
    if as_json:
        print_json(job)
        return
    for name, text in _describe_job(job).items():
        stdout_console().print(f"[bold]{name:<11}[/] {escape(text)}")
    if job.get("report"):
        report.show_report(stdout_console(), job["report"])
        report.show_next_steps(stdout_console(), job["report"])


@app.command("report")
def print_report(
    job_id: JobId,
    html: Annotated[
        Path | None, typer.Option(help="Write it there as one self-contained HTML page.")
    ] = None,
    as_json: JsonOption = False,
    api: ApiOption = None,
) -> None:
    """Print the report of a job that has succeeded."""
    gateway = connect_gateway(api)
    job = gateway.get_job(job_id)
    result = job.get("report")
    if result is None:
        reason = f": {job['error']['message']}" if job.get("error") else ""
        raise Conflict(f"JOB: {job_id} has no report, it is {job['status']}{reason}")
    if as_json:
        print_json(result)
    elif html is None:
        report.show_report(stdout_console(), result)
    if html is not None:
        write_html_report(gateway, result, job["method"]["type"], html)


@app.command("predictions")
def list_predictions(
    job_id: JobId,
    method: Annotated[str | None, typer.Option(help="Of this row. (default: all)")] = None,
    right: Annotated[
        bool | None, typer.Option("--right/--wrong", help="Those that are.", show_default=False)
    ] = None,
    teacher_right: Annotated[
        bool | None,
        typer.Option("--teacher-right/--teacher-wrong", help="Likewise.", show_default=False),
    ] = None,
    label: Annotated[str | None, typer.Option(help="Those of this gold label.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The first ones.")] = 100,
    as_json: JsonOption = False,
    api: ApiOption = None,
) -> None:
    """Print what a job's students answered to the test questions."""
    given = {"method": method, "right": right, "teacher_right": teacher_right, "label": label}
    wanted = {name: value for name, value in given.items() if value is not None}
    predictions = connect_gateway(api).list_predictions(job_id, limit, wanted)
    if as_json:
        print_json(predictions)
        return
    # Of a job with baselines each question is there once for each student.
    several = len({one["method"] for one in predictions}) > 1
    columns = ("question", "gold", "answer", "sure", "teacher", "output")
    table = terminal.make_table(*(("method",) if several else ()), *columns)
    for one in predictions:
        row = (one["method"],) if several else ()
        sure = "" if one["confidence"] is None else f"{one['confidence']:.2f}"
        answers = (one["gold"], one["answer"] or "", sure, one["teacher_answer"] or "")
        question = one["question"] or one["question_id"]
        table.add_row(*row, escape(question), *map(escape, answers), escape(one["text"]))
    stdout_console().print(table)
    if not predictions:
        print_note("none is like that")
    elif len(predictions) == limit:
        print_note(f"the first {limit:,}; --limit shows more")


def _describe_job(job: dict[str, Any]) -> dict[str, str]:
    facts = {
        "Job": job["id"],
        "State": format_state(job),
        "Created": format_time(job["created_at"]),
        "Base model": job["model"],
        "Method": job["method"]["type"],
    }
    if (queue := job.get("queue")) is not None:
        eta = queue.get("eta_seconds")
        facts["Position"] = f"{queue['position']}" + (f", about {eta:.0f} s" if eta else "")
    if (usage := job.get("usage")) is not None:
        facts["Spent"] = _format_usage(usage)
    if job.get("paused_because"):
        facts["Paused"] = job["paused_because"]
    if job.get("error"):
        facts["Error"] = job["error"]["message"]
    return facts


def _format_usage(usage: dict[str, Any]) -> str:
    tokens = usage["teacher_prompt_tokens"] + usage["teacher_completion_tokens"]
    parts = [f"{tokens:,} teacher tokens"]
    if usage.get("cost") is not None:
        parts.append(f"{usage['cost']:.4f} {usage['currency']}")
    if usage.get("uncertain"):
        parts.append(report.format_uncertain_usage(usage))
    if usage.get("gpu_seconds"):
        parts.append(f"{usage['gpu_seconds']:,.0f} GPU seconds")
    return ", ".join(parts)


@app.command()
def cancel(job_id: JobId, api: ApiOption = None) -> None:
    """Cancel a job. Its completed teacher outputs are kept for later jobs."""
    job = connect_gateway(api).cancel_job(job_id)
    print_note(f"the job {job_id} is {job['status']}")


@app.command()
def pause(job_id: JobId, api: ApiOption = None) -> None:
    """Pause a job, to be resumed. Its training saves a checkpoint first."""
    job = connect_gateway(api).pause_job(job_id)
    print_note(f"the job {job_id} is {job['status']}; `qcrd jobs resume {job_id}` continues it")


@app.command()
def resume(
    job_id: JobId,
    teacher_tokens: Annotated[int | None, typer.Option(min=1, help="A new budget.")] = None,
    cost: Annotated[float | None, typer.Option(min=0, help="A new budget.")] = None,
    release_uncertain: Annotated[
        bool,
        typer.Option(
            "--release-uncertain",
            help="Take teacher tokens that may have been spent for not spent.",
        ),
    ] = False,
    api: ApiOption = None,
) -> None:
    """Resume a paused job; a given limit replaces the job's budget."""
    given = {"teacher_tokens": teacher_tokens, "cost": cost}
    budget = {name: value for name, value in given.items() if value is not None}
    gateway = connect_gateway(api)
    job = gateway.resume_job(job_id, budget or None, release_uncertain=release_uncertain)
    print_note(f"the job {job_id} is {job['status']}")


@app.command()
def delete(job_id: JobId, api: ApiOption = None) -> None:
    """Delete a finished job. Its rationale set and its model stay."""
    connect_gateway(api).delete_job(job_id)
    print_note(f"job {job_id} deleted")


@app.command()
def events(
    job_id: JobId,
    limit: Annotated[int, typer.Option(min=1, help="The newest ones.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job is over.")] = False,
    api: ApiOption = None,
) -> None:
    """Print a job's events, oldest first."""
    gateway = connect_gateway(api)
    if follow:
        show_result(follow_on_terminal(gateway, job_id), None)
        return
    for event in gateway.list_events(job_id, limit):
        stdout_console().print(f"{format_time(event.created_at)}  {escape(_format_event(event))}")


def _format_event(event: JobEvent) -> str:
    return event.message if event.level == "info" else f"{event.level}: {event.message}"


def format_time(seconds: float) -> str:
    """Local time, with the date unless it is today."""
    moment = datetime.fromtimestamp(seconds)
    today = datetime.fromtimestamp(time.time()).date()
    return f"{moment:%H:%M:%S}" if moment.date() == today else f"{moment:%Y-%m-%d %H:%M:%S}"
