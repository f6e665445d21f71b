"""The archived events of a job, in pages of the object store.

A page is named by its first and its last event, so the names alone say where an event is. Two
processes that archive one job at once may write pages that overlap; a reader takes each event once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from qcrd.records.job import Event
from qcrd.runtime import archive_keys, keys
from qcrd.runtime.redis.event_log import EventLog, format_event_id, parse_event_id
from qcrd.runtime.storage.json_lines import read_lines, write_lines
from qcrd.runtime.storage.store import Store, note_stray_object

PAGE_SIZE = 1000
"""Events in one page, about 40 kB compressed."""


class EventArchive:
    def __init__(self, store: Store, *, page_size: int = PAGE_SIZE) -> None:
        self._store = store
        self._page_size = page_size

    def find_newest(self, job_id: str) -> str | None:
        """Id of the newest archived event; None where none is."""
        return max((last for _, last, _ in self._list_named_pages(job_id)), default=None)

    def add_new(self, job_id: str, events: EventLog, *, through: str | None = None) -> str | None:
        """Archive the events that are newer than the archive, up to id `through`, and return the id
        of the newest archived event."""
        newest = self.find_newest(job_id)
        while page := events.read(job_id, newest, self._page_size):
            due = [event for event in page if through is None or event.id <= through]
            if due:
                key = archive_keys.event_page_key(job_id, due[0].id, due[-1].id)
                write_lines(self._store, key, due)
                newest = due[-1].id
            if len(due) < len(page):
                break
            del due
        return newest

    def read(
        self, job_id: str, after: str | None = None, limit: int = 100, *, newest_first: bool = False
    ) -> list[Event]:
        """At most `limit` events after the one with id `after`, or before it, backwards."""
        found: list[Event] = []
        for event in (
            self._iter_backwards(job_id, after) if newest_first else self.iter_events(job_id, after)
        ):
            if len(found) == limit:
                break
            found.append(event)
        return found

    def iter_events(self, job_id: str, after: str | None = None) -> Iterator[Event]:
        """The events after the one with id `after`, oldest first, a page at a time."""
        newest = _normalize(after) or ""
        for _, last, key in self._list_pages(job_id):
            if last > newest:
                for event in self._read_page(key):
                    if event.id > newest:
                        newest = event.id
                        yield event

    def _iter_backwards(self, job_id: str, before: str | None) -> Iterator[Event]:
        oldest = _normalize(before)
        for first, _, key in reversed(self._list_pages(job_id)):
            if oldest is None or first < oldest:
                for event in reversed(list(self._read_page(key))):
                    if oldest is None or event.id < oldest:
                        oldest = event.id
                        yield event

    def delete(self, job_id: str) -> None:
        """Idempotent."""
        for _, _, key in self._list_pages(job_id):
            self._store.delete(key)

    def _list_pages(self, job_id: str) -> list[tuple[str, str, str]]:
        """First id, last id and key of each page, in the order of the events."""
        pages = self._list_named_pages(job_id)
        earlier = keys.job_events_key(job_id)
        if not pages and self._store.list(earlier):
            pages = [("", "~", earlier)]  # one file, whose ids are between these
        return pages

    def _list_named_pages(self, job_id: str) -> list[tuple[str, str, str]]:
        pages = []
        for key in self._store.list(archive_keys.event_pages_prefix(job_id)):
            if named := archive_keys.parse_event_page_key(key):
                pages.append((*named, key))
            else:
                note_stray_object(self._store, key)
        return pages

    def _read_page(self, key: str) -> Iterable[Event]:
        return read_lines(self._store, key, Event, skip_unreadable=True)


def _normalize(event_id: str | None) -> str | None:
    """The id as it is stored; `Invalid` for what is none."""
    return None if event_id is None else format_event_id(*parse_event_id(event_id))
