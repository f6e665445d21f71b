"""Types of models that can be a student, and how the questions of each are read.

The table is measured: a tiny model of every type that transformers knows is compared, loss and
gradient, with one plain sequence per question and output.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

TABLE_FILE = "student_families.json"

Reading = Literal["packed", "pairs", "seq2seq"]
"""`packed`: a question and its outputs in one sequence; `pairs`: one sequence per output;
`seq2seq`: the encoder's states are shared by the outputs."""


class StudentFamilies(BaseModel):
    """`model_type` of transformers, by how it is read; `refused` says why others are not."""

    model_config = ConfigDict(frozen=True)

    packed: frozenset[str]
    pairs: frozenset[str]
    seq2seq: frozenset[str]
    refused: dict[str, str]

    def find_reading(self, model_type: str) -> Reading | None:
        """None for a type that is refused or unknown, and for encoders, which get a new decoder."""
        if model_type in self.packed:
            return "packed"
        if model_type in self.pairs:
            return "pairs"
        return "seq2seq" if model_type in self.seq2seq else None


def find_inexact_setting(config: Mapping[str, Any]) -> str | None:
    """The setting of a config.json with which a type that is read exactly is not, and why; the
    table has each type as it is by default."""
    parts = [config, *(part for part in [config.get("text_config")] if isinstance(part, Mapping))]
    if any(part.get("model_type") == "falcon" and part.get("alibi") for part in parts):
        return "`alibi: true`: its bias counts places of the row"
    # `vision` is about the places of images alone.
    if any(part.get("use_bidirectional_attention") in (True, "all") for part in parts):
        return "`use_bidirectional_attention`: a token sees those behind it, and with them itself"
    return None


@cache
def load_student_families() -> StudentFamilies:
    text = (files("qcrd.records") / TABLE_FILE).read_text(encoding="utf-8")
    return StudentFamilies.model_validate(json.loads(text))
