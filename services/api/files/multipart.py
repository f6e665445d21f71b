"""A `multipart/form-data` body as it arrives (RFC 7578), part by part, in any order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from qcrd.errors import Invalid
from services.api.http.errors import UnsupportedMediaType

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_PARTS = 16
"""An upload has two."""
MULTIPART_TYPE = "multipart/form-data"


@dataclass(frozen=True)
class Part:
    """Read `data` before the next part: unread bytes are skipped then."""

    name: str
    filename: str | None
    data: Iterator[bytes]


@dataclass(frozen=True)
class PartStart:
    name: str
    filename: str | None


class PartEnd:
    """The end of a part."""


ParserEvent = PartStart | PartEnd | bytes


def parse_boundary(content_type: str) -> bytes:
    """The boundary between the parts, from the request's `Content-Type`."""
    media_type, options = parse_options_header(content_type)
    if media_type != MULTIPART_TYPE.encode():
        displayed_type = content_type.partition(";")[0][:80] or "nothing"
        raise UnsupportedMediaType(
            f"`Content-Type` is {displayed_type}: send the file as {MULTIPART_TYPE}"
        )
    if not options.get(b"boundary"):
        raise _make_form_error("`Content-Type` names no `boundary`")
    return options[b"boundary"]


def read_parts(chunks: Iterable[bytes], boundary: bytes) -> Iterator[Part]:
    """`Invalid` where the body is no such form, or ends before it is complete."""
    events = _iter_events(chunks, boundary)
    for event in events:
        if isinstance(event, PartStart):
            part = Part(event.name, event.filename, _iter_part_data(events))
            yield part
            for _ in part.data:
                pass


def _iter_part_data(events: Iterator[ParserEvent]) -> Iterator[bytes]:
    for event in events:
        if isinstance(event, PartEnd):
            return
        assert isinstance(event, bytes), "a part begins only after the end of the last"
        yield event


def _iter_events(chunks: Iterable[bytes], boundary: bytes) -> Iterator[ParserEvent]:
    collector = _EventCollector()
    try:
        parser = MultipartParser(boundary, collector.build_callbacks())
        for chunk in chunks:
            if not collector.is_complete:  # bytes after the last boundary are ignored
                parser.write(chunk)
            yield from collector.drain()
    except FormParserError as error:
        raise _make_form_error(str(error)) from error
    if not collector.is_complete:
        raise _make_form_error("it ends before its last boundary")


class _EventCollector:
    """Collects the parser's callbacks until they are taken."""

    def __init__(self) -> None:
        self.is_complete = False
        self._events: list[ParserEvent] = []
        self._part_count = 0
        self._header_name = b""
        self._header_value = b""
        self._disposition = b""

    def build_callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": lambda: self._events.append(PartEnd()),
            "on_end": self._on_end,
        }

    def drain(self) -> list[ParserEvent]:
        taken, self._events = self._events, []
        return taken

    def _on_part_begin(self) -> None:
        self._disposition = b""
        self._part_count += 1
        if self._part_count > MAX_PARTS:
            raise _make_form_error(f"more than {MAX_PARTS} parts")

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name = self._header_value = b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise _make_form_error("a part's `Content-Disposition` has no `name`")
        filename = options.get(b"filename")
        decoded_filename = None if filename is None else _decode_text(filename)
        self._events.append(PartStart(_decode_text(options[b"name"]), decoded_filename))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(bytes(data[start:end]))

    def _on_end(self) -> None:
        self.is_complete = True


def _decode_text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _make_form_error(problem: str) -> Invalid:
    return Invalid(f"the form cannot be read: {problem}", code="broken_form")
