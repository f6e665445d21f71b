"""The command that installs what is missing, as this very package was installed.

Only the standard library is imported: it is asked where the rest is not there.
"""

from __future__ import annotations

import json
import shlex
from importlib.metadata import distributions
from urllib.parse import unquote, urlparse

COMMAND_LINE_MODULES = frozenset(
    "typer rich yaml pydantic_settings redis celery minio zstandard prometheus_client".split()
)
"""What the extras `cli` and `runtime` bring."""


def format_install_command(extra: str) -> str:
    """`pip install` with the extra, from where this package came: a folder, a wheel or an index."""
    # More than one where the code is in a folder with build remains; none in a container.
    found = (one.read_text("direct_url.json") for one in distributions(name="qcrd"))
    source = next(filter(None, found), None)
    if source is None:
        return f"pip install 'qcrd[{extra}]'"
    told = json.loads(source)
    url = str(told["url"])
    if "dir_info" not in told:
        vcs = told.get("vcs_info")
        place = f"{vcs['vcs']}+{url}@{vcs['commit_id']}" if vcs else url
        return f"pip install 'qcrd[{extra}] @ {place}'"
    folder = unquote(urlparse(url).path)
    editable = "-e " if told["dir_info"].get("editable") else ""
    constraints = shlex.quote(f"{folder}/constraints.txt")
    return f"pip install -c {constraints} {editable}'{folder}[{extra}]'"


def describe_missing(module: str | None) -> str | None:
    """What to do where the command line's own modules are missing; None for another module."""
    if module is None or module.partition(".")[0] not in COMMAND_LINE_MODULES:
        return None
    return (
        f"the command line needs {module}, which the client alone does not: "
        f"{format_install_command('cli')}"
    )
