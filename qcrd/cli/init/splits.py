"""The files of a folder, by what their names say that they are to a job."""

from __future__ import annotations

import re
from pathlib import Path

from qcrd.errors import Invalid

SPLITS = {
    "training_file": ("train", "training"),
    "validation_file": ("validation", "valid", "val", "dev"),
    "test_file": ("test", "eval"),
}
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


def find_splits(data: Path) -> dict[str, Path]:
    """The files of a folder, or those beside a file."""
    if not data.exists():
        raise Invalid(f"DATA: there is no file or folder {data}")
    if data.is_file():
        named = _find_named(data.parent)
        if named.get("training_file") == data:
            return named
        return {"training_file": data}
    named = _find_named(data)
    files = [path for path in sorted(data.iterdir()) if path.suffix.lower() in SUFFIXES]
    if "training_file" not in named and len(files) == 1:
        named["training_file"] = files[0]
    if "training_file" not in named:
        raise Invalid(
            f"DATA: no file in {data} is called `train` (with {', '.join(SUFFIXES)}): name the "
            "training file itself"
        )
    return named


def _find_named(folder: Path) -> dict[str, Path]:
    found = dict[str, Path]()
    for path in sorted(folder.iterdir()):
        stem = re.split(r"[-_.]", path.name.lower())
        for name, words in SPLITS.items():
            if path.suffix.lower() in SUFFIXES and not set(words).isdisjoint(stem):
                found.setdefault(name, path)
    return found
