"""Results of a stage: one JSON file that grows by a part at a time, and the next call goes on from.

A part that a call of the same kind on the same card has finished is not run again. One that failed
is.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.machine import Machine

WHOLE, FAILED, CANNOT, UNFINISHED = 0, 1, 3, 4
"""Exit codes: all is done; a check failed; it cannot go on; the time is up, call again."""
TRACE_CHARACTERS = 1500

Record = dict[str, Any]


class Clock:
    """The time of one call: `limit` seconds from `started` on."""

    def __init__(self, limit: float, now: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._now = now
        self._started = now()

    @property
    def spent(self) -> float:
        return self._now() - self._started

    @property
    def left(self) -> float:
        return self.limit - self.spent


class StageResults:
    """Parts of `stage` by name, written to every one of `folders` and read from them all."""

    def __init__(
        self, stage: str, folders: Sequence[Path], machine: Machine, *, rehearsed: bool = False
    ) -> None:
        self.stage = stage
        self.folders = list(folders)
        self._head = {"machine": asdict(machine), "rehearsed": rehearsed}
        self.parts: dict[str, Record] = {}
        for folder in reversed(self.folders):
            self.parts |= self._read_parts(folder / f"{stage}.json")

    def _read_parts(self, path: Path) -> Mapping[str, Record]:
        """Those that were made on this card, in this way."""
        found = read_json(path)
        same_card = found.get("machine", {}).get("card") == self._head["machine"]["card"]
        same_kind = found.get("rehearsed") == self._head["rehearsed"]
        parts: Mapping[str, Record] = found.get("parts", {}) if same_card and same_kind else {}
        return parts

    def is_done(self, name: str) -> bool:
        return name in self.parts and "failed" not in self.parts[name]

    def add(self, name: str, record: Record) -> None:
        self.parts[name] = {**record, "at": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())}
        body = {"stage": self.stage, **self._head, "parts": self.parts}
        for folder in self.folders:
            folder.mkdir(parents=True, exist_ok=True)
            unfinished = folder / f".{self.stage}.json"
            unfinished.write_text(json.dumps(body, indent=1))
            os.replace(unfinished, folder / f"{self.stage}.json")


def read_json(path: Path) -> dict[str, Any]:
    """What the file holds; nothing where there is none, or it was cut off."""
    try:
        found = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Part:
    """One measurement; it is not begun where less than `seconds` of the call are left."""

    name: str
    run: Callable[[], Record]
    seconds: float = 15.0


def run_parts(parts: Sequence[Part], results: StageResults, clock: Clock) -> int:
    """Run what is not done yet, save each as it ends, and return the exit code.

    The one place that takes any error: what breaks one part says nothing about the next.
    """
    unfinished = []
    for part in parts:
        if results.is_done(part.name):
            print(f"{part.name}: kept from an earlier call", flush=True)
            continue
        if clock.left < part.seconds:
            unfinished.append(part.name)
            continue
        started = time.monotonic()
        try:
            record: Record = {"result": part.run()}
        except Exception:
            record = {"failed": traceback.format_exc()[-TRACE_CHARACTERS:]}
        record["seconds"] = round(time.monotonic() - started, 2)
        results.add(part.name, record)
        print(f"{part.name}: {_summarise(record)} ({record['seconds']} s)", flush=True)
    bad = [part.name for part in parts if not is_good(results.parts.get(part.name))]
    failed = [name for name in bad if name not in unfinished]
    if failed:
        print(f"failed: {', '.join(failed)}")
        return FAILED
    if unfinished:
        print(f"time is up; call again for: {', '.join(unfinished)}")
        return UNFINISHED
    print(f"{results.stage}: all {len(parts)} parts are there")
    return WHOLE


def is_good(record: Record | None) -> bool:
    """Whether a part ran through, and found what it should where it is a check."""
    return record is not None and "failed" not in record and record["result"].get("ok", True)


def _summarise(record: Record) -> str:
    if "failed" in record:
        return record["failed"].strip().splitlines()[-1]
    return json.dumps(record["result"])[:400]
