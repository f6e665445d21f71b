"""Runs in a pool of processes until the time is up, saved as each ends."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.results import Clock
from benchmarks.ladder import table

POLL_SECONDS = 0.2

Key = tuple[str, str, int]
"""Data set, row and seed of a run."""
Line = dict[str, Any]


def run_all(
    keys: Sequence[Key],
    work: Callable[[Key], Line],
    paths: Sequence[Path],
    *,
    processes: int,
    clock: Clock,
) -> tuple[list[Line], int]:
    """Make the runs that are in none of `paths` yet, in the order of `keys`; all lines, and how
    many failed here. `work` is called in a process of the pool.

    A run is begun only where the longest of its kind so far would end in time.
    """
    results = read_all(paths)
    _write_all(paths, results)
    done = {table.result_key(line) for line in results if "failed" not in line}
    pending = [key for key in keys if key not in done]
    print(f"{len(done)} runs are there, {len(pending)} to go, {processes} at a time", flush=True)
    failed = 0
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        running: dict[Key, tuple[float, Any]] = {}
        longest = 0.0
        while (pending and clock.left > longest) or running:
            while pending and len(running) < processes and clock.left > longest:
                key = pending.pop(0)
                running[key] = (time.monotonic(), pool.apply_async(work, (key,)))
            for key in [key for key, (_, result) in running.items() if result.ready()]:
                started, result = running.pop(key)
                line = result.get()
                longest = max(longest, time.monotonic() - started)
                failed += "failed" in line
                for path in paths:
                    table.append_result(path, line)
                print(table.format_result(line), flush=True)
            if clock.left <= 0:
                break
            time.sleep(POLL_SECONDS)
        if not running:
            pool.close()
            pool.join()
        # Else leaving the pool ends what still runs, of which nothing is kept.
    return read_all(paths), failed


def find_whole_seeds(keys: Sequence[Key], results: Sequence[Line]) -> list[int]:
    """Seeds of which every run is there."""
    done = {table.result_key(line) for line in results if "failed" not in line}
    seeds = dict.fromkeys(seed for _, _, seed in keys)
    return [s for s in seeds if all(key in done for key in keys if key[2] == s)]


def read_all(paths: Sequence[Path]) -> list[Line]:
    """The last line of each run in any of the files."""
    lines = [line for path in paths for line in table.read_results(path)]
    return list({table.result_key(line): line for line in lines}.values())


def _write_all(paths: Sequence[Path], results: Sequence[Line]) -> None:
    """All files have the same runs from then on."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}")
        unfinished.write_text("".join(json.dumps(line) + "\n" for line in results))
        os.replace(unfinished, path)
