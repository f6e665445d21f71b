"""Which shard of generations has which, so that a job reads the shards that it wants alone.

Each shard has an index object: its name and its keys, of which 64 bits are kept. Many index objects
are merged into one of the next level, so that a search reads few. A shard without one (an earlier
release wrote it) is read whole and indexed then. An index says where to look, and is never trusted
for more: a key that two outputs share by chance costs one read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from qcrd.errors import NotFound
from qcrd.runtime import archive_keys, keys
from qcrd.runtime.storage.reading_ahead import read_ahead
from qcrd.runtime.storage.store import Store, read_object

MERGED = 32
"""Index objects that become one: ten million outputs are 5,000 shards, and are searched with some
190 reads, several at once, of 80 MB together."""
LEVELS = 1
"""Of merging. An object of 32 shards is half a megabyte: larger ones would save few reads, and a
worker would hold them."""

Contents = dict[str, NDArray[np.uint64]]
"""The sorted keys in each shard."""


class GenerationIndex:
    """The index of the shards of one teacher and one sampling, apart from them: an earlier release
    reads all that is among the shards."""

    def __init__(self, store: Store, teacher: str, sampling: str) -> None:
        self._store = store
        self._prefix = archive_keys.generation_index_prefix(teacher, sampling)

    def find_shards(
        self, shards: Sequence[str], has_any: Callable[[NDArray[np.uint64]], bool]
    ) -> tuple[list[str], list[str]]:
        """Of `shards` those that an index says have a wanted key, and those that none has.
        `has_any` says of sorted keys, as `shorten` makes them, whether one of them is wanted."""
        indexed, chosen = set[str](), set[str]()
        for contents_by_shard in read_ahead(self._read, self._store.list(self._prefix)):
            for shard, contents in contents_by_shard.items():
                indexed.add(shard)
                if has_any(contents):
                    chosen.add(shard)
        return (
            [shard for shard in shards if shard in chosen],
            [shard for shard in shards if shard not in indexed],
        )

    def add(self, shard: str, sample_keys: Iterable[str]) -> None:
        """Index a shard that was written, then merge what has become many."""
        contents = np.array(sorted(map(shorten, sample_keys)), dtype=np.uint64)
        self._write(0, {shard: contents})
        self._merge()

    def _merge(self) -> None:
        for level in range(LEVELS):
            names = self._store.list(f"{self._prefix}{level}-")
            if len(names) < MERGED:
                return
            merged: Contents = {}
            for name in names:
                merged |= self._read(name)
            self._write(level + 1, merged)
            for name in names:  # another job that searches meanwhile reads their shards whole
                self._store.delete(name)

    def _write(self, level: int, contents: Contents) -> None:
        counts = {shard: len(each) for shard, each in contents.items()}
        keys_of_all = (each.astype("<u8").tobytes() for each in contents.values())
        data = b"\n".join((json.dumps(counts).encode(), b"".join(keys_of_all)))
        self._store.put(f"{self._prefix}{level}-{keys.digest(data)}", data)

    def _read(self, name: str) -> Contents:
        """Nothing of an index that was merged since it was listed."""
        try:
            header, _, data = read_object(self._store, name).partition(b"\n")
        except NotFound:
            return {}
        contents: Contents = {}
        start = 0
        for shard, count in json.loads(header).items():
            contents[shard] = np.frombuffer(data, "<u8", count, start)
            start += 8 * count
        return contents


def shorten(sample_key: str) -> int:
    """64 bits of a key."""
    return int(keys.digest(sample_key)[:16], 16)


class KeySet:
    """A few wanted keys, in memory."""

    def __init__(self, sample_keys: Iterable[str]) -> None:
        self._keys = frozenset(sample_keys)
        self._shorts = np.array(sorted(map(shorten, self._keys)), dtype=np.uint64)

    def wants(self, sample_key: str) -> bool:
        return sample_key in self._keys

    def has_any(self, shorts: NDArray[np.uint64]) -> bool:
        """Whether one of these, which are sorted, is wanted."""
        if not len(shorts):
            return False
        places = np.minimum(np.searchsorted(shorts, self._shorts), len(shorts) - 1)
        return bool((shorts[places] == self._shorts).any())
