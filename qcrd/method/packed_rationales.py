"""Rationales of one question in the memory of their text: as objects each takes 1.7 kB."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

from pydantic import TypeAdapter

from qcrd.records.rationales import Rationale

RATIONALES = TypeAdapter(tuple[Rationale, ...])
COMPRESSION = 1
"""zlib's fastest: a training reads a question's rationales once or twice in a pass."""


class PackedRationales(Sequence[Rationale]):
    """A tuple of rationales that are made anew, some microseconds each, whenever one is taken."""

    __slots__ = ("_count", "_packed")

    def __init__(self, rationales: Iterable[Rationale]) -> None:
        unpacked = tuple(rationales)
        self._count = len(unpacked)
        self._packed = zlib.compress(RATIONALES.dump_json(unpacked), COMPRESSION)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Rationale]:
        return iter(self._unpack())

    @overload
    def __getitem__(self, place: int) -> Rationale: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Rationale, ...]: ...
    def __getitem__(self, place: int | slice) -> Rationale | tuple[Rationale, ...]:
        return self._unpack()[place]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._unpack() == tuple(other)

    def __hash__(self) -> int:
        return hash(self._unpack())

    def __repr__(self) -> str:
        return repr(self._unpack())

    def _unpack(self) -> tuple[Rationale, ...]:
        return RATIONALES.validate_json(zlib.decompress(self._packed)) if self._count else ()
