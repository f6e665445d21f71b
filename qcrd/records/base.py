"""What every record is, and how data from outside becomes one."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from qcrd.errors import Invalid


class Record(BaseModel):
    # What is wrong is told by its path; the value itself may be a secret.
    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True
    )


RecordT = TypeVar("RecordT", bound=BaseModel)


def parse_record(record: type[RecordT], data: Any, *, root: str = "") -> RecordT:
    """`data` as a `record`; an `Invalid` with the first wrong field's path if it is not."""
    try:
        return record.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join([root] * bool(root) + [str(part) for part in first["loc"]])
        if first["type"] == "extra_forbidden":
            raise Invalid(f"unknown key `{path}`", param=path, code="unknown_key") from error
        raise Invalid(f"`{path}`: {first['msg']}", param=path or None) from error
