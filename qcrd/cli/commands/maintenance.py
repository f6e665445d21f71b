"""`qcrd gc`, `backup`, `restore` and `rebuild`: for an operator, at Redis and the store itself."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer
from redis import Redis
from rich.table import Table

from qcrd.cli.output.terminal import make_table, print_note, stdout_console
from qcrd.cli.settings import CliSettings
from qcrd.cli.stack import lifecycle as stack
from qcrd.cli.stack.health import make_redis_url
from qcrd.cli.stack.home import StackHome
from qcrd.runtime.backup.restore import Restored, check_empty, rebuild_jobs, restore_backup
from qcrd.runtime.backup.snapshot import write_backup
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.retention.removal import Removal
from qcrd.runtime.retention.sweeper import make_sweeper
from qcrd.runtime.settings import RedisSettings, RetentionSettings, StoreSettings, load_settings
from qcrd.runtime.storage.inventory import InventoriedStore, open_inventoried_store


def gc(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list what would go, and why.")
    ] = False,
) -> None:
    """Remove what nothing needs any more from Redis and the object store, as the workers do."""
    redis, store = _connect()
    sweeper, now = make_sweeper(redis, store, load_settings(RetentionSettings)), time.time()
    removals = [
        *sweeper.sweep_redis(now, dry_run=dry_run),
        *sweeper.sweep_store(now, dry_run=dry_run),
    ]
    if removals:
        stdout_console().print(_make_table(removals))
    total = sum(removal.bytes for removal in removals)
    verb = "would go" if dry_run else "went"
    noun = "thing" if len(removals) == 1 else "things"
    print_note(f"{len(removals)} {noun} {verb}, {total / 1e6:.1f} MB of the object store")


def _make_table(removals: list[Removal]) -> Table:
    table = make_table("kind", "of", "bytes", "why")
    for removal in removals:
        table.add_row(removal.kind, removal.name, f"{removal.bytes:,}", removal.reason)
    return table


def backup(
    file: Annotated[Path, typer.Argument(help="File to write, readable by you alone.")],
) -> None:
    """Back up what Redis has: living jobs, events, paid answers. The services may run meanwhile."""
    redis, _ = _connect()
    count = write_backup(redis, file)
    print_note(f"{count} keys of Redis in {file} ({file.stat().st_size / 1e3:,.1f} kB)")


def restore(file: Annotated[Path, typer.Argument(help="File that `qcrd backup` wrote.")]) -> None:
    """Restore a backup into an empty Redis. The services are to be stopped meanwhile."""
    redis, store = _connect()
    _print_restored(restore_backup(redis, store, file))


def rebuild() -> None:
    """Make the list of jobs from the object store alone, where Redis and its backups are lost."""
    redis, store = _connect()
    check_empty(redis)
    _print_restored(rebuild_jobs(redis, store))


def _print_restored(restored: Restored) -> None:
    print_note(
        f"{len(restored.from_backup)} jobs go on, {len(restored.ended)} have ended, "
        f"{len(restored.from_store)} are paused as only the store has them"
    )
    for job_id in restored.from_store:
        print_note(f"paused: {job_id}: `qcrd jobs resume {job_id}`")
    if restored.deleted:
        print_note(f"{len(restored.deleted)} jobs were deleted since the backup, and stay so")
    for job_id in restored.unreadable:
        print_note(f"left out, this release cannot read its record: {job_id}")


def _connect() -> tuple[Redis, InventoriedStore]:
    """The servers of the environment, or of the running embedded stack where that names none."""
    redis_settings, store_settings = load_settings(RedisSettings), load_settings(StoreSettings)
    if not os.environ.get("QCRD_REDIS_URL"):
        home = StackHome(load_settings(CliSettings).home)
        if (running := stack.find_stack(home)) is not None:
            ports, keys = running.record.ports, home.load_store_keys()
            redis_settings = RedisSettings(url=make_redis_url(ports["redis"], keys))
            store_settings = StoreSettings.model_validate(
                {
                    "endpoint": f"127.0.0.1:{ports['s3']}",
                    "access_key": keys.access_key,
                    "secret_key": keys.secret_key,
                }
            )
    return connect_redis(redis_settings), open_inventoried_store(store_settings)
