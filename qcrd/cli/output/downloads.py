"""Download a published student with a bar for each file."""

from __future__ import annotations

from pathlib import Path

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)

from qcrd.cli.output.terminal import stderr_console
from qcrd.client.download import download_model
from qcrd.client.gateway import GatewayClient


def download_with_bars(api: GatewayClient, model_id: str, target: Path) -> Path:
    """Download the model to `target`, which is created once every file is complete."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    bars: dict[str, TaskID] = {}
    with Progress(*columns, TransferSpeedColumn(), console=stderr_console()) as progress:

        def show(name: str, done: int, total: int | None) -> None:
            if name not in bars:
                bars[name] = progress.add_task(name)
            progress.update(bars[name], completed=done, total=total)

        return download_model(api, model_id, target, show)
