"""What a sweep removes, and why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qcrd.runtime.storage.inventory import OpenUpload, StoredObject

DAY_SECONDS = 86400.0


@dataclass(frozen=True, slots=True)
class Removal:
    """`kind`: what it is, such as `checkpoints`; `name`: whose. `keys` go in this order, after the
    parts of `uploads`."""

    kind: str
    name: str
    reason: str
    keys: tuple[str, ...]
    bytes: int
    uploads: tuple[OpenUpload, ...] = ()

    @classmethod
    def make(cls, kind: str, name: str, reason: str, objects: Iterable[StoredObject]) -> Removal:
        found = list(objects)
        names = tuple(each.key for each in found)
        return cls(kind, name, reason, names, sum(each.bytes for each in found))


def describe_age(seconds: float) -> str:
    days = seconds / DAY_SECONDS
    return f"{days:.0f} days" if days >= 2 else f"{seconds / 3600:.0f} hours"
