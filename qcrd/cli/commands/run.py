"""`qcrd run`: create a job from its YAML, follow it, print its report."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from qcrd.cli import spec
from qcrd.cli.connect import ApiOption, connect_gateway
from qcrd.cli.output import html_report, report
from qcrd.cli.output.progress import open_display
from qcrd.cli.output.terminal import EXIT_FAILED, print_note, stderr_console, stdout_console
from qcrd.client.follow import follow_job
from qcrd.client.gateway import GatewayClient
from qcrd.errors import Invalid, NotFound
from qcrd.records.job import JobStatus

MAX_READ = 100_000
"""Predictions that a page's counts are of."""
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def run(
    job: Annotated[Path, typer.Argument(metavar="SPEC", help="The job, as YAML.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder of the job's files. (default: that of SPEC)")
    ] = None,
    report_file: Annotated[
        Path | None, typer.Option("--report", help="Write the report there, as JSON.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write the report there, as one HTML page.")
    ] = None,
    api: ApiOption = None,
) -> None:
    """Upload a job's files, create the job, follow it, and print what it measured."""
    draft = spec.read_job_spec(job, data)
    if report_file is not None:
        check_writable(report_file, "--report")
    if html is not None:
        check_writable(html, "--html")
    gateway = connect_gateway(api)
    created = gateway.create_job(draft.with_file_ids(upload_files(gateway, draft)))
    print_note(f"job {created['id']} created; following it (Ctrl-C stops following, not the job)")
    finished = follow_on_terminal(gateway, created["id"])
    show_result(finished, report_file)
    if html is not None and finished.get("report") is not None:
        write_html_report(gateway, finished["report"], finished["method"]["type"], html)


def follow_on_terminal(gateway: GatewayClient, job_id: str) -> dict[str, Any]:
    try:
        with open_display(stderr_console()) as job_display:
            return follow_job(gateway, job_id, job_display)
    except KeyboardInterrupt:
        print_note(f"job {job_id} keeps running")
        print_note(f"  qcrd jobs events {job_id} --follow   follows it again")
        print_note(
            f"  qcrd jobs cancel {job_id}            ends it; finished teacher outputs are kept"
        )
        raise typer.Exit(EXIT_INTERRUPTED) from None


def show_result(job: dict[str, Any], report_file: Path | None) -> None:
    """Print the report, or why there is none; exit code 1 unless the job has succeeded."""
    result = job.get("report")
    if result is not None:
        report.show_report(stdout_console(), result)
        report.show_next_steps(stdout_console(), result)
        if report_file is not None:
            text = json.dumps(result, indent=2, ensure_ascii=False)
            report_file.write_text(text + "\n", encoding="utf-8")
            print_note(f"report written to {report_file}")
    if job["status"] != JobStatus.SUCCEEDED:
        error = job.get("error") or {}
        verb = "was " if job["status"] == JobStatus.CANCELLED else ""
        text = f"the job {job['id']} {verb}{job['status']}"
        if error.get("message"):
            text += f": {error['message']}"
        stderr_console().print(f"[bold red]error:[/] {escape(text)}", soft_wrap=True)
        raise typer.Exit(EXIT_FAILED)


def write_html_report(
    gateway: GatewayClient, report_body: dict[str, Any], method: str, path: Path
) -> None:
    """Write the page, with what the method's student answered to the test questions."""
    try:
        predictions = gateway.list_predictions(report_body["job_id"], MAX_READ, {"method": method})
    except NotFound:  # a gateway of a release that serves none
        predictions = []
    page = html_report.render_html(report_body, predictions)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise Invalid(f"--html: cannot write {path}: {error.strerror}") from error
    print_note(f"report written to {path}")


def upload_files(gateway: GatewayClient, draft: spec.SpecDraft) -> dict[Path, str]:
    """Upload the files and return their ids by path; equal files are uploaded once."""
    ids_by_digest: dict[str, str] = {}
    ids: dict[Path, str] = {}
    for spec_file in draft.files:
        digest = _hash_file(spec_file)
        if digest not in ids_by_digest:
            stored = _upload_file(gateway, spec_file)
            ids_by_digest[digest] = stored["id"]
            print_note(
                f"uploaded {spec_file.path.name}: {stored['lines']:,} lines as {stored['id']}"
            )
            for notice in stored.get("notices") or ():
                print_note(f"  {notice}")
        ids[spec_file.path] = ids_by_digest[digest]
    return ids


def _upload_file(gateway: GatewayClient, spec_file: spec.SpecFile) -> dict[str, Any]:
    """The gateway knows no name of what is wrong with a file that it refuses."""
    try:
        return gateway.upload_file(spec_file.path)
    except Invalid as error:
        name, message = spec_file.path.name, error.message
        message = message if name in message else f"{name}: {message}"
        raise type(error)(message, param=spec_file.field, code=error.code) from error


def _hash_file(spec_file: spec.SpecFile) -> str:
    try:
        with spec_file.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise Invalid(
            f"`{spec_file.field}`: cannot read {spec_file.path}: {error.strerror}",
            param=spec_file.field,
        ) from error


def check_writable(path: Path, option: str) -> None:
    """Check before the job runs that its report can be written afterwards."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        existed = path.exists()
        path.open("a").close()
        if not existed:
            path.unlink()
    except OSError as error:
        raise Invalid(f"{option}: cannot write {path}: {error.strerror}") from error
