"""Download a published student: all of its files, or no folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import httpx2
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from qcrd.cli.client import GatewayClient, connect_gateway
from qcrd.cli.output.terminal import stderr_console
from qcrd.cli.settings import CliSettings
from qcrd.cli.stack.home import StackHome
from qcrd.errors import Conflict, Invalid, Transient
from qcrd.records.students.prompt_format import PROMPT_FORMAT_FILE
from qcrd.runtime.settings import load_settings

TIMEOUT = httpx2.Timeout(60.0, connect=5.0)
BLOCK_BYTES = 1 << 20


def download_model(api: GatewayClient, model_id: str, target: Path, console: Console) -> Path:
    """Download the model to `target`, which is created once every file is complete."""
    model = api.get_model(model_id)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Conflict(f"--to: {target} exists and is not an empty folder: name another one")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".qcrd-") as folder:
            complete = Path(folder) / "model"
            complete.mkdir()
            _download_files(model["files"], complete, console)
            complete.chmod(0o777 & ~_get_umask())
            complete.replace(target)
    except OSError as error:
        raise Invalid(f"--to: cannot write {target}: {error.strerror}") from error
    return target


def resolve_model_folder(model: str, api: str | None) -> Path:
    """The model's local folder; a published model is downloaded once and cached."""
    if Path(model).is_dir():
        return Path(model)
    if not model.startswith("model-") or "/" in model:
        raise Invalid(
            f"MODEL: {model!r} is neither a folder nor a model id: see `qcrd models list`"
        )
    cached = StackHome(load_settings(CliSettings).home).cache / "models" / model
    if not (cached / PROMPT_FORMAT_FILE).exists():
        download_model(connect_gateway(api), model, cached, stderr_console())
    return cached


def _download_files(files: list[dict[str, Any]], folder: Path, console: Console) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with (
        Progress(*columns, TransferSpeedColumn(), console=console) as progress,
        httpx2.Client(timeout=TIMEOUT, trust_env=False) as http,
    ):
        for file in files:
            bar = progress.add_task(file["name"], total=file.get("bytes"))
            path = _resolve_inside(folder, file["name"])
            for done, total in _download_blocks(http, file["url"], path, file["name"]):
                progress.update(bar, completed=done, total=total)


def _download_blocks(
    http: httpx2.Client, url: str, path: Path, name: str
) -> Iterator[tuple[int, int | None]]:
    """Write the file, yielding bytes done and in total; `Transient` when it is incomplete."""
    done, total = 0, None
    try:
        with http.stream("GET", url) as response, path.open("wb") as file:
            if not response.is_success:
                raise Transient(f"the store refused {name}: {response.status_code}; try again")
            length = response.headers.get("Content-Length")
            total = int(length) if length else None
            for block in response.iter_bytes(BLOCK_BYTES):
                file.write(block)
                done += len(block)
                yield done, total
    except httpx2.TransportError as error:
        host = httpx2.URL(url).netloc.decode()
        raise Transient(f"lost the store at {host} while fetching {name}: {error}") from error
    if total is not None and done != total:
        raise Transient(f"{name} is incomplete: {done} of {total} bytes; try again")


def _resolve_inside(folder: Path, name: str) -> Path:
    """`name` under `folder`; `Invalid` for a name that leads out of it."""
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or not pure.parts:
        raise Invalid(f"the model holds a file with the unsafe name {name!r}")
    path = folder.joinpath(*pure.parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _get_umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
