"""Reading `qcrd.json` from a student's folder."""

from __future__ import annotations

import json
from pathlib import Path

from qcrd.errors import Invalid
from qcrd.records.base import parse
from qcrd.records.prompt_format import INFERENCE, Manner


def read_manner(folder: Path) -> Manner:
    """`Invalid` when there is no such file, or it is not what the trainer writes."""
    try:
        told = json.loads((folder / INFERENCE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise Invalid(f"{folder} is not a student: it has no {INFERENCE}") from error
    except ValueError as error:
        raise Invalid(f"{folder / INFERENCE} is not JSON: {error}") from error
    return parse(Manner, told, root=INFERENCE)
