"""What a stage has too much of for memory: a database in a temporary file, which ends with it.

Nothing in it outlives the stage: a later attempt fills its own from the files and the cache. So it
keeps no journal and waits for no disk.
"""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from qcrd.errors import Transient

CACHE_KIB = 4 * 1024
"""Pages in memory, whatever the size of the file."""
SCHEMA = """
CREATE TABLE question (
    place INTEGER PRIMARY KEY, split INTEGER NOT NULL, id TEXT NOT NULL,
    samples INTEGER NOT NULL DEFAULT 0, line INTEGER NOT NULL, row TEXT NOT NULL
);
CREATE INDEX question_id ON question (id, split);
CREATE TABLE duplicate (id BLOB PRIMARY KEY, line INTEGER, checksum INTEGER) WITHOUT ROWID;
CREATE TABLE sample (
    short INTEGER NOT NULL, key TEXT NOT NULL, slot INTEGER NOT NULL, free INTEGER NOT NULL,
    PRIMARY KEY (short, key, slot)
) WITHOUT ROWID;
CREATE TABLE generation (
    slot INTEGER PRIMARY KEY, twin INTEGER NOT NULL, own INTEGER NOT NULL,
    prompt INTEGER NOT NULL, completion INTEGER NOT NULL, estimated INTEGER NOT NULL,
    finish TEXT NOT NULL, text TEXT NOT NULL
);
CREATE TABLE asked (key TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE import (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL, reading TEXT NOT NULL, text TEXT NOT NULL
);
CREATE INDEX import_id ON import (id);
"""


class SpillDatabase:
    """Tables on disk in `folder`, by default the process's temporary one; `Transient` when that is
    full. The file has no name, so that a worker that is killed leaves nothing."""

    def __init__(self, folder: Path | None = None) -> None:
        with (
            _translate_errors(),
            tempfile.TemporaryDirectory(prefix="qcrd-assembling-", dir=folder) as named,
        ):
            self._connection = sqlite3.connect(Path(named) / "spill.db", isolation_level=None)
            for setting in (
                "journal_mode = OFF",
                "synchronous = OFF",
                "locking_mode = EXCLUSIVE",
                f"cache_size = -{CACHE_KIB}",
            ):
                self._connection.execute(f"PRAGMA {setting}")
            self._connection.executescript(SCHEMA)
            # One transaction that never ends: pages are written when the cache is full, not before.
            self._connection.execute("BEGIN")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection.close()

    def execute(self, statement: str, values: Sequence[Any] = ()) -> int:
        """Change rows; how many were."""
        with _translate_errors():
            return self._connection.execute(statement, values).rowcount

    def execute_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        with _translate_errors():
            self._connection.executemany(statement, rows)

    def find(self, query: str, values: Sequence[Any] = ()) -> Any | None:
        """The first row, as a tuple."""
        with _translate_errors():
            return self._connection.execute(query, values).fetchone()

    def count(self, query: str, values: Sequence[Any] = ()) -> int:
        """How many rows a query has."""
        (count,) = self.find(f"SELECT COUNT(*) FROM ({query})", values) or (0,)
        return int(count)

    def iterate(self, query: str, values: Sequence[Any] = ()) -> Iterator[Any]:
        """The rows as tuples, read as they are taken."""
        with _translate_errors():
            # Not `yield from`, which would close the cursor of a pass that was broken off, and then
            # perhaps after the database.
            for row in self._connection.execute(query, values):  # noqa: UP028
                yield row


@contextmanager
def _translate_errors() -> Iterator[None]:
    try:
        yield
    except (sqlite3.OperationalError, OSError) as error:
        raise Transient(
            f"the worker cannot use its temporary folder {tempfile.gettempdir()} ({error}): give "
            "it room there, about twice the text of the job's outputs, or set TMPDIR to a folder "
            "that has it",
            code="no_temporary_space",
        ) from error
