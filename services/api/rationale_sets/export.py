"""A rationale set as JSON lines: everything about each item, or a questions file to import."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator

from qcrd.method.answer_reading.marks import ANSWER_TAG
from services.api.rationale_sets.schemas import ItemObject

CHUNK_BYTES = 64 << 10
"""Bytes that are sent at once: sending single lines costs more than making them."""


def join_lines(lines: Iterable[bytes]) -> Iterator[bytes]:
    buffer = bytearray()
    for line in lines:
        buffer += line
        if len(buffer) >= CHUNK_BYTES:
            yield bytes(buffer)
            buffer.clear()
    if buffer:
        yield bytes(buffer)


def dump_items(items: Iterable[ItemObject]) -> Iterator[bytes]:
    for item in items:
        yield item.model_dump_json().encode() + b"\n"


def dump_questions(items: Iterable[ItemObject]) -> Iterator[bytes]:
    """One line per question, with its rationales as raw outputs that end in their answers, as
    `rationales.import` takes them; excluded ones are left out. The import votes anew."""
    for _, group in itertools.groupby(items, key=lambda item: item.question_id):
        included = [item for item in group if not item.excluded]
        if included:
            yield json.dumps(_make_question(included), ensure_ascii=False).encode() + b"\n"


def _make_question(items: list[ItemObject]) -> dict[str, object]:
    first = items[0]
    line: dict[str, object] = {"question": first.question}
    if first.choices:
        line["choices"] = first.choices
    if first.label is not None:
        line["label"] = first.label
    return {**line, "outputs": [_format_output(item) for item in items]}


def _format_output(item: ItemObject) -> str:
    return item.text if item.answer is None else f"{item.text}\n{ANSWER_TAG} {item.answer}"
