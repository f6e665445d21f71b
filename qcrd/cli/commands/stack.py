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

from qcrd.cli.output.terminal import FAILED, note, out
from qcrd.cli.settings import CliSettings
from qcrd.cli.stack import lifecycle as stack
from qcrd.cli.stack import procfile
from qcrd.cli.stack.home import Home
from qcrd.cli.stack.lifecycle import Stack
from qcrd.errors import Transient


class _Stop(BaseException):
    """Somebody asked this process to end."""


def _already_stopping(signum: int, frame: FrameType | None) -> None:
    pass


@contextmanager
def _stop_on_signals() -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal raise `_Stop`, once; then the parts are being ended."""

    def ask(signum: int, frame: FrameType | None) -> None:
        # Not SIG_IGN: Python complains of a second signal that was already on its way.
        for number in numbers:
            signal.signal(number, _already_stopping)
        raise _Stop

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, ask) for number in numbers]
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
        typer.Option(min=1, max=65535, help="Port of the gateway. [default: a free one]"),
    ] = None,
) -> None:
    """Start the whole system on this machine, on loopback, and keep it running until Ctrl-C."""
    settings = CliSettings()
    home = Home(settings.home)
    with _stop_on_signals():
        running: Stack | None = None
        try:
            with home.lock():
                running = stack.find(home)
                if running is not None:
                    stack.await_ready(running, _silently)
                    note(f"already running: {_where(running)}")
                    return
                running = stack.start(
                    home,
                    commands=settings.procfile or procfile.bundled(),
                    port=port,
                    tied=not detach,
                    say=note,
                )
                stack.await_ready(running, note)
            note(f"running: {_where(running)}")
            if not detach:
                _watch(running)
        except _Stop:
            note("stopping …")
            if running is not None:
                running.stop()
            note("stopped")
        except Transient:
            if running is not None and running.process is not None:
                running.stop()
            raise


def _silently(text: str) -> None:
    """A second `up` has one line to say."""


def _where(running: Stack) -> str:
    return f"{running.record.api_url}, data and logs in {running.home.root}. `qcrd down` stops it"


def _watch(running: Stack) -> None:
    """Tell which parts were restarted, until the supervisor ends."""
    note("Ctrl-C stops it")
    while not running.has_ended():
        try:
            for part in running.restarted():
                log = running.home.log(part.name)
                note(f"{part.name} ended and was started again; its log: {log}")
        except Transient:
            if not running.has_ended():
                note("the supervisor does not answer")
        time.sleep(1)
    code = running.process.returncode if running.process else 0
    running.home.forget_record()
    if code:
        raise Transient(f"the supervisor died (exit code {code}) and every part with it")
    note("stopped by another command")


def down() -> None:
    """Stop the system that `qcrd up` started."""
    home = Home(CliSettings().home)
    with home.lock():
        running = stack.find(home)
        if running is None:
            home.forget_record()
            note(f"nothing is running in {home.root}")
            return
        began = time.monotonic()
        running.stop()
        note(f"stopped ({time.monotonic() - began:.0f} s)")


def status() -> None:
    """Show every part and whether it is ready; exit code 1 unless all are."""
    home = Home(CliSettings().home)
    running = stack.find(home)
    if running is None:
        note(f"nothing is running in {home.root}: start it with `qcrd up`")
        raise typer.Exit(FAILED)
    table = Table("part", "state", "pid", "up for", "port")
    all_ready = True
    for part in running.parts():
        ready = running.is_ready(part)
        all_ready &= ready
        state = "ready" if ready else part.state.lower()
        seconds = time.time() - part.started_at
        age = f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
        number = running.record.ports.get(PORT_NAMES.get(part.name, part.name))
        table.add_row(
            part.name,
            state if ready else f"[red]{state}",
            str(part.pid or ""),
            age if part.running else "",
            str(number or ""),
        )
    out().print(table)
    out().print(_where(running), soft_wrap=True)
    if not all_ready:
        raise typer.Exit(FAILED)


PORT_NAMES = {"valkey": "redis", "seaweedfs": "s3"}
