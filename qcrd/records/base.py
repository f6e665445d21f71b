"""The base class of records, and parsing of outside data into one."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from qcrd.errors import Invalid


class Record(BaseModel):
    # Errors show the path of a value, not the value, which may be a secret.
    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True
    )


RecordT = TypeVar("RecordT", bound=BaseModel)


def parse_record(record: type[RecordT], data: Any, *, root: str = "") -> RecordT:
    """Parse `data` as a `record`; `Invalid` with the path of the first wrong field."""
    try:
        return record.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join([root] * bool(root) + [str(part) for part in first["loc"]])
        if first["type"] == "extra_forbidden":
            raise Invalid(f"unknown key `{path}`", param=path, code="unknown_key") from error
        raise Invalid(f"`{path}`: {first['msg']}", param=path or None) from error
