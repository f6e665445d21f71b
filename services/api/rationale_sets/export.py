"""A rationale set as JSON lines: everything about each item, or a questions file to import."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator

from qcrd.method.answers import ANSWER_TAG
from services.api.rationale_sets.schemas import Item

CHUNK = 64 << 10
"""Bytes that are sent at once: a line by itself costs more to hand on than to make."""


def chunks(lines: Iterable[bytes]) -> Iterator[bytes]:
    held = bytearray()
    for line in lines:
        held += line
        if len(held) >= CHUNK:
            yield bytes(held)
            held.clear()
    if held:
        yield bytes(held)


def items(said: Iterable[Item]) -> Iterator[bytes]:
    for item in said:
        yield item.model_dump_json().encode() + b"\n"


def questions(said: Iterable[Item]) -> Iterator[bytes]:
    """One line per question, with its rationales as raw outputs that end in their answers, as
    `rationales.import` takes them; excluded ones are left out. The vote is then taken anew."""
    for _, group in itertools.groupby(said, key=lambda item: item.question_id):
        kept = [item for item in group if not item.excluded]
        if kept:
            yield json.dumps(_question(kept), ensure_ascii=False).encode() + b"\n"


def _question(kept: list[Item]) -> dict[str, object]:
    first = kept[0]
    line: dict[str, object] = {"question": first.question}
    if first.choices:
        line["choices"] = first.choices
    if first.label is not None:
        line["label"] = first.label
    return {**line, "outputs": [_output(item) for item in kept]}


def _output(item: Item) -> str:
    return item.text if item.answer is None else f"{item.text}\n{ANSWER_TAG} {item.answer}"
