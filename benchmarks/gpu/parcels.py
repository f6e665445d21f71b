"""Parcels: large files cut into parts that a machine without a network can be sent one by one.

Only the standard library is needed, because the files may be what brings everything else.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from qcrd.errors import Invalid

MIB = 2**20
LIST_SUFFIX = ".parts.json"


def cut(files: Sequence[Path], folder: Path, *, part_mib: float) -> list[Path]:
    """Write the parts of `files`, and a list of them for each, into `folder`; all that was
    written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for file in files:
        digest, names = hashlib.sha256(), []
        for number, block in enumerate(_read_blocks(file, int(part_mib * MIB))):
            digest.update(block)
            part = folder / f"{file.name}.{number:03d}"
            part.write_bytes(block)
            names.append(part.name)
            written.append(part)
        listed = folder / (file.name + LIST_SUFFIX)
        listed.write_text(json.dumps({"parts": names, "sha256": digest.hexdigest()}))
        written.append(listed)
    return written


def _read_blocks(file: Path, size: int) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while block := opened.read(size):
            yield block


def join(folder: Path, target: Path) -> tuple[list[Path], list[str]]:
    """Put the files together whose parts are all in `folder`: those files, and the names of the
    parts that are still missing. `Invalid` when one is not what was cut."""
    target.mkdir(parents=True, exist_ok=True)
    joined, missing = [], []
    for listed in sorted(folder.glob(f"*{LIST_SUFFIX}")):
        described = json.loads(listed.read_text())
        absent = [name for name in described["parts"] if not (folder / name).is_file()]
        if absent:
            missing += absent
            continue
        whole = target / listed.name.removesuffix(LIST_SUFFIX)
        _write_whole([folder / name for name in described["parts"]], whole, described["sha256"])
        joined.append(whole)
    return joined, missing


def _write_whole(parts: Sequence[Path], whole: Path, sha256: str) -> None:
    digest, unfinished = hashlib.sha256(), whole.with_name(f".{whole.name}")
    with unfinished.open("wb") as file:
        for part in parts:
            block = part.read_bytes()
            digest.update(block)
            file.write(block)
    if digest.hexdigest() != sha256:
        unfinished.unlink()
        raise Invalid(f"{whole.name} is not what was cut: send its parts again", param="parts")
    os.replace(unfinished, whole)
