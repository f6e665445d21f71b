"""Exports of a student: a process of its own writes and checks them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from qcrd.cli.install_hint import format_install_command
from qcrd.cli.output.terminal import print_note
from qcrd.errors import Conflict, Invalid

PROGRESS = "progress: "
"""As `qcrd.exports.agreement` has it, which imports torch."""


def export_model(
    folder: Path, export_format: str, target: Path, *, questions: Path | None, models: Path
) -> str:
    """Write the student of `folder` into the new folder `target`; the sentence says how it was
    checked. `Invalid`, with the reason, for what is not exported."""
    if target.exists():
        raise Conflict(f"--to: {target} exists: name another folder")
    command = [sys.executable, "-m", "qcrd.exports", export_format, str(folder), str(target)]
    command += ["--models", str(models)]
    if questions is not None:
        command += ["--questions", str(questions)]
    outcome = _read_outcome(_run(command))
    if outcome["error"] is not None:
        raise Invalid(outcome["error"], param="format")
    return str(outcome["checked"])


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Its lines of progress are shown as they come; what it prints besides is short."""
    others = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        for line in process.stderr:
            if line.startswith(PROGRESS):
                print_note(line.removeprefix(PROGRESS).rstrip())
            else:
                others.append(line)
        told = process.stdout.read()
    return subprocess.CompletedProcess(command, process.returncode, told, "".join(others))


def _read_outcome(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        outcome: dict[str, Any] = json.loads(lines[-1])
        return outcome
    reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    _, is_format, wrong = reason.partition("argument format: ")
    if is_format:
        raise Invalid(f"--format: {wrong}", param="format")
    if "No module named" in reason:
        reason += f"; exports need torch: {format_install_command('trainer,cli')}"
    raise Invalid(f"MODEL: it was not exported: {reason}")
