"""A `multipart/form-data` body as it arrives (RFC 7578), part by part, in any order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from qcrd.errors import Invalid
from services.api.http.errors import UnsupportedType

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MOST_PARTS = 16
"""An upload has two."""
TYPE = "multipart/form-data"


@dataclass(frozen=True)
class Part:
    """`data` is to be read before the next part is asked for; what is left of it is skipped."""

    name: str
    filename: str | None
    data: Iterator[bytes]


@dataclass(frozen=True)
class Head:
    name: str
    filename: str | None


class End:
    """Of a part."""


Event = Head | End | bytes


def boundary(content_type: str) -> bytes:
    """What stands between the parts, from the request's `Content-Type`."""
    kind, options = parse_options_header(content_type)
    if kind != TYPE.encode():
        shown = content_type.partition(";")[0][:80] or "nothing"
        raise UnsupportedType(f"`Content-Type` is {shown}: send the file as {TYPE}")
    if not options.get(b"boundary"):
        raise _broken("`Content-Type` names no `boundary`")
    return options[b"boundary"]


def read_parts(chunks: Iterable[bytes], boundary: bytes) -> Iterator[Part]:
    """`Invalid` where the body is no such form, or ends before it is complete."""
    events = _events(chunks, boundary)
    for event in events:
        if isinstance(event, Head):
            part = Part(event.name, event.filename, _data(events))
            yield part
            for _ in part.data:
                pass


def _data(events: Iterator[Event]) -> Iterator[bytes]:
    for event in events:
        if isinstance(event, End):
            return
        assert isinstance(event, bytes), "a part begins only after the end of the last"
        yield event


def _events(chunks: Iterable[bytes], boundary: bytes) -> Iterator[Event]:
    heard = _Heard()
    try:
        parser = MultipartParser(boundary, heard.callbacks())
        for chunk in chunks:
            if not heard.complete:  # what follows the last boundary is nobody's
                parser.write(chunk)
            yield from heard.taken()
    except FormParserError as error:
        raise _broken(str(error)) from error
    if not heard.complete:
        raise _broken("it ends before its last boundary")


class _Heard:
    """What the parser has called back since it was last asked."""

    def __init__(self) -> None:
        self.complete = False
        self._events: list[Event] = []
        self._parts = 0
        self._name = b""
        self._value = b""
        self._disposition = b""

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._field,
            "on_header_value": self._header,
            "on_header_end": self._keep,
            "on_headers_finished": self._head,
            "on_part_data": self._data,
            "on_part_end": lambda: self._events.append(End()),
            "on_end": self._end,
        }

    def taken(self) -> list[Event]:
        taken, self._events = self._events, []
        return taken

    def _begin(self) -> None:
        self._disposition = b""
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise _broken(f"more than {MOST_PARTS} parts")

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _keep(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def _head(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise _broken("a part's `Content-Disposition` has no `name`")
        filename = options.get(b"filename")
        shown = None if filename is None else _text(filename)
        self._events.append(Head(_text(options[b"name"]), shown))

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(bytes(data[start:end]))

    def _end(self) -> None:
        self.complete = True


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _broken(problem: str) -> Invalid:
    return Invalid(f"the form cannot be read: {problem}", code="broken_form")
