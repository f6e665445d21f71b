"""`qcrd up`, `down` and `status`."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import typer
from rich.table import Table

from qcrd.cli.output.terminal import EXIT_FAILED, print_note, stdout_console
from qcrd.cli.settings import CliSettings
from qcrd.cli.stack import lifecycle as stack
from qcrd.cli.stack import procfile
from qcrd.cli.stack.home import StackHome
from qcrd.cli.stack.lifecycle import Stack
from qcrd.errors import Transient
from qcrd.runtime.settings import load_settings


class _StopRequested(BaseException):
    """This process received SIGINT, SIGTERM or SIGHUP."""


def _ignore_signal(signum: int, frame: FrameType | None) -> None:
    pass


@contextmanager
def _stop_on_signals() -> Iterator[None]:
    """Raise `_StopRequested` on the first signal; ignore further ones while the parts stop."""

    def request_stop(signum: int, frame: FrameType | None) -> None:
        # Not SIG_IGN: Python reports a pending second signal as an error.
        for number in numbers:
            signal.signal(number, _ignore_signal)
        raise _StopRequested

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, request_stop) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def up(
    detach: Annotated[
        bool, typer.Option("-d", "--detach", help="Return when every part is ready.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port of the gateway. (default: a free one)"),
    ] = None,
) -> None:
    """Start the whole system on this machine, on loopback, and keep it running until Ctrl-C."""
    settings = load_settings(CliSettings)
    home = StackHome(settings.home)
    with _stop_on_signals():
        running: Stack | None = None
        try:
            with home.lock():
                running = stack.find_stack(home)
                if running is not None:
                    stack.wait_until_ready(running, _print_nothing)
                    print_note(f"already running: {_format_location(running)}")
                    return
                running = stack.start_stack(
                    home,
                    commands=settings.procfile or procfile.get_bundled_path(),
                    port=port,
                    attached=not detach,
                    print_line=print_note,
                )
                stack.wait_until_ready(running, print_note)
            print_note(f"running: {_format_location(running)}")
            if not detach:
                _watch_restarts(running)
        except _StopRequested:
            print_note("stopping …")
            if running is not None:
                running.stop()
            print_note("stopped")
        except Transient:
            if running is not None and running.process is not None:
                running.stop()
            raise


def _print_nothing(text: str) -> None:
    """For a second `qcrd up`, which prints one line only."""


def _format_location(running: Stack) -> str:
    return f"{running.record.api_url}, data and logs in {running.home.root}. `qcrd down` stops it"


def _watch_restarts(running: Stack) -> None:
    """Print which parts were restarted, until the supervisor ends."""
    print_note("Ctrl-C stops it")
    while not running.has_exited():
        try:
            for part in running.find_restarted():
                log = running.home.log_path(part.name)
                print_note(f"{part.name} ended and was started again; its log: {log}")
        except Transient:
            if not running.has_exited():
                print_note("the supervisor does not respond")
        time.sleep(1)
    code = running.process.returncode if running.process else 0
    running.home.delete_record()
    if code:
        raise Transient(f"the supervisor died (exit code {code}) and every part with it")
    print_note("stopped by another command")


def down() -> None:
    """Stop the system that `qcrd up` started."""
    home = StackHome(load_settings(CliSettings).home)
    with home.lock():
        running = stack.find_stack(home)
        if running is None:
            home.delete_record()
            print_note(f"nothing is running in {home.root}")
            return
        started_at = time.monotonic()
        running.stop()
        print_note(f"stopped ({time.monotonic() - started_at:.0f} s)")


def status() -> None:
    """Show every part and whether it is ready; exit code 1 unless all are."""
    home = StackHome(load_settings(CliSettings).home)
    running = stack.find_stack(home)
    if running is None:
        print_note(f"nothing is running in {home.root}: start it with `qcrd up`")
        raise typer.Exit(EXIT_FAILED)
    table = Table("part", "state", "pid", "up for", "port")
    all_ready = True
    for part in running.list_parts():
        ready = running.is_ready(part)
        all_ready &= ready
        state = "ready" if ready else part.state.lower()
        seconds = time.time() - part.started_at
        age = f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
        number = running.record.ports.get(PORT_BY_PART.get(part.name, part.name))
        table.add_row(
            part.name,
            state if ready else f"[red]{state}",
            str(part.pid or ""),
            age if part.is_running else "",
            str(number or ""),
        )
    stdout_console().print(table)
    stdout_console().print(_format_location(running), soft_wrap=True)
    if not all_ready:
        raise typer.Exit(EXIT_FAILED)


PORT_BY_PART = {"valkey": "redis", "seaweedfs": "s3"}
