"""Read the Procfile, the commands of the system's processes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from string import Template

from qcrd.errors import Invalid

PROCESS_LINE = re.compile(r"^([A-Za-z][A-Za-z0-9_-]*):\s*(\S.*)$")
SERVERS = ("valkey", "seaweedfs")
"""Parts that the services connect to: started first, stopped last."""


def get_bundled_path() -> Path:
    return Path(__file__).with_name("Procfile")


def read_procfile(path: Path) -> dict[str, str]:
    """Command line per part, in the file's order."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise Invalid(f"cannot read the Procfile {path}: {error.strerror}") from error
    parts: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = PROCESS_LINE.match(line)
        if match is None or match[1] in parts:
            raise Invalid(f"{path}, line {number}: expected `name: command`, each name once")
        parts[match[1]] = match[2]
    if not parts:
        raise Invalid(f"the Procfile {path} names no process")
    return parts


def build_argv(command: str, environment: Mapping[str, str]) -> list[str]:
    """Split the command and substitute every `${VARIABLE}`; a value is never split."""
    try:
        return [Template(word).substitute(environment) for word in shlex.split(command)]
    except KeyError as error:
        raise Invalid(f"the Procfile's command `{command}` needs the variable {error}") from error
