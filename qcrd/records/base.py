"""The base classes of records, and the two ways to read one: strictly, what a client sends, and
with fields of other releases, what one of them stored, so that two can run side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, TypeAdapter, ValidationError

from qcrd.errors import Invalid, UnreadableRecord

SCHEMA_MAJOR = 1
"""Raised when stored records change so that earlier releases would misread them."""
SCHEMA_VERSION = "1.0"
"""Major and minor; the minor is raised with every new field, which earlier releases keep."""


class Record(BaseModel):
    # A field that this release does not know is kept and written back: a later one stored it.
    # `parse_record` refuses it. Errors show the path of a value, which may be a secret, alone.
    model_config = ConfigDict(
        frozen=True,
        extra="allow",
        populate_by_name=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )


def _check_major(version: str) -> str:
    if version.partition(".")[0] != str(SCHEMA_MAJOR):
        raise ValueError(
            f"it has schema version {version[:20]}, and this release reads {SCHEMA_MAJOR}.x"
        )
    return version


class StoredRecord(Record):
    """A record that is stored by itself. Those without a version were stored before there was
    one, as 1.0."""

    schema_version: Annotated[str, AfterValidator(_check_major)] = SCHEMA_VERSION


_VERSION = TypeAdapter(Annotated[str, AfterValidator(_check_major)])
RecordT = TypeVar("RecordT", bound=BaseModel)

_WITHOUT_PARTS = frozenset({str, int, bool, type(None)})
"""What most values of a record are."""


def parse_record(
    record: type[RecordT],
    data: Any,
    *,
    root: str = "",
    extra: Literal["forbid", "ignore"] = "forbid",
) -> RecordT:
    """Parse `data` from outside as a `record`; `Invalid` with the path of the first wrong field.
    What a client sends is to have no unknown one."""
    try:
        return record.model_validate(data, extra=extra)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join([root] * bool(root) + [str(part) for part in first["loc"]])
        if first["type"] == "extra_forbidden":
            near = _find_similar(record, first["loc"])
            hint = f": did you mean `{near}`?" if near else ""
            raise Invalid(f"unknown key `{path}`{hint}", param=path, code="unknown_key") from error
        raise Invalid(f"`{path}`: {first['msg']}", param=path or None) from error


def _find_similar(record: type[BaseModel], location: Sequence[str | int]) -> str | None:
    """The field most like the last part of `location`, in the records that may stand there."""
    *parents, unknown = location
    records = {record}
    for part in parents:
        fields = [each.model_fields.items() for each in records]
        inner = {
            found
            for name, field in (pair for pairs in fields for pair in pairs)
            if part in (name, field.alias)
            for found in _iter_records(field.annotation)
        }
        # The place in a list and the tag of a union lead to no other record.
        records = inner or records
    names = [field.alias or name for each in records for name, field in each.model_fields.items()]
    return next(iter(get_close_matches(str(unknown), names, n=1)), None)


def _iter_records(annotation: Any) -> Iterator[type[BaseModel]]:
    """The records in a type, such as those of a list or of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _iter_records(part)


def parse_stored_record(record: type[RecordT], data: str | bytes, location: str) -> RecordT:
    """Parse `data` that was stored at `location`; unknown fields are kept. `UnreadableRecord` for
    that of another major version, or damaged."""
    try:
        parsed = record.model_validate_json(data)
        # A later release may give a version to what has none yet.
        _VERSION.validate_python((parsed.model_extra or {}).get("schema_version", SCHEMA_VERSION))
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False)
        first = next((one for one in found if one["loc"] == ("schema_version",)), found[0])
        path = ".".join(str(part) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        raise UnreadableRecord(
            f"{location} cannot be read as {record.__name__} by this release: "
            + (reason if path in ("", "schema_version") else f"`{path}`: {reason}")
        ) from error
    # Not the lines of files: they are many, and one of them harms what reads its file alone.
    if isinstance(parsed, StoredRecord) and _has_infinite(parsed):
        raise UnreadableRecord(
            f"{location} cannot be read as {record.__name__} by this release: a number of it is "
            "not finite"
        )
    return parsed


def _has_infinite(record: BaseModel) -> bool:
    """Whether a number in it is infinite or none: JSON takes `1e999`, and no response does."""
    remaining: list[object] = [record]
    while remaining:
        value = remaining.pop()
        if type(value) in _WITHOUT_PARTS:
            continue
        if isinstance(value, float):
            if not math.isfinite(value):
                return True
        elif isinstance(value, BaseModel):
            remaining += value.__dict__.values()
            remaining += (value.model_extra or {}).values()
        elif isinstance(value, dict):
            remaining += value.values()
        elif isinstance(value, list | tuple):
            remaining += value
    return False
