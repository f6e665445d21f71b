"""Cache of all teacher outputs, so that none is paid for twice.

An output goes into a buffer in Redis as it arrives; later the buffer is flushed to a shard whose
name is a digest of its content. Both are shared by all jobs with the same teacher and sampling.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from qcrd.errors import NotFound, UnreadableRecord
from qcrd.records.base import Record, parse_stored_record
from qcrd.runtime import archive_keys, keys
from qcrd.runtime.redis.generation_buffer import AccountUpdate, GenerationBuffer
from qcrd.runtime.storage.json_lines import parse_line, read_lines, read_raw_lines, write_lines
from qcrd.runtime.storage.reading_ahead import read_ahead
from qcrd.runtime.storage.store import Store
from services.api.assembling.generation_index import GenerationIndex, KeySet
from services.api.assembling.teacher.teacher_client import Completion

SHARDS_AHEAD = 2
"""Shards that are read at once: each is some megabytes of lines until they are looked at."""
KEY_AT_BEGIN = re.compile(rb'\{"key":"([^"\\]*)"')
"""As every release writes a line; another one is parsed whole."""


class WantedKeys(Protocol):
    """The keys of the samples that are looked for."""

    def wants(self, sample_key: str, /) -> bool: ...

    def has_any(self, shorts: NDArray[np.uint64], /) -> bool:
        """Whether one of these sorted keys, as `shorten` makes them, is wanted."""


class Generation(Record):
    """A raw output: sample `index` of the prompt whose digest `key` is. Counts are in tokens."""

    key: str
    index: int
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    estimated: bool = False
    """Whether the counts are ours, because the teacher did not tell them."""
    job_id: str
    """The job that paid for it; a job's usage is summed over its attempts from these."""

    @classmethod
    def make(cls, key: str, index: int, completion: Completion, job_id: str) -> Self:
        return cls(
            key=key,
            index=index,
            text=completion.text,
            finish_reason=completion.finish_reason,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            estimated=completion.estimated,
            job_id=job_id,
        )


class GenerationCache:
    """The generations of one teacher and one sampling, by their fingerprints."""

    def __init__(
        self, store: Store, buffer: GenerationBuffer, *, teacher: str, sampling: str
    ) -> None:
        self._store = store
        self._buffer = buffer
        self._teacher = teacher
        self._sampling = sampling
        self._buffer_name = f"{teacher}/{sampling}"
        self._index = GenerationIndex(store, teacher, sampling)

    def mark_used(self, job_id: str) -> None:
        """Keep what is here from being removed while the job lives, and for a time after."""
        self._store.put(archive_keys.generation_use_key(self._teacher, self._sampling, job_id), b"")

    def find_many(self, sample_keys: Collection[str]) -> dict[str, Generation]:
        """The existing generations among these few keys."""
        return {one.key: one for one in self.find_each(KeySet(sample_keys))}

    def find_each(self, wanted: WantedKeys) -> Iterator[Generation]:
        """The existing generations that are wanted, read as they are taken; of two with one key the
        later one counts."""
        # The buffer first: what another job flushes meanwhile is then found in a shard.
        pending = self._buffer.read_all(self._buffer_name)
        shards = self._store.list(keys.generation_prefix(self._teacher, self._sampling))
        chosen, unindexed = self._index.find_shards(shards, wanted.has_any)
        yield from self._find_in_indexed(chosen, wanted)
        for shard in unindexed:
            yield from self._find_in_unindexed(shard, wanted)
        for key, payload in pending.items():
            if wanted.wants(key) and (found := self._parse_pending(key, payload)) is not None:
                yield found

    def _find_in_indexed(self, shards: Sequence[str], wanted: WantedKeys) -> Iterator[Generation]:
        """Lines that nobody wants are not parsed."""

        def read(shard: str) -> list[bytes]:
            try:
                return read_raw_lines(self._store, shard)
            except NotFound:  # nobody had used it for long, and it was removed
                return []

        for shard, lines in zip(
            shards, read_ahead(read, shards, threads=SHARDS_AHEAD), strict=True
        ):
            for number, line in enumerate(lines, 1):
                begin = KEY_AT_BEGIN.match(line)
                if begin is None or wanted.wants(begin[1].decode()):
                    found = parse_line(
                        self._store, shard, Generation, number, line, skip_unreadable=True
                    )
                    if found is not None and wanted.wants(found.key):
                        yield found

    def _find_in_unindexed(self, shard: str, wanted: WantedKeys) -> Iterator[Generation]:
        """Of an earlier release's, or one whose index is being merged: it is indexed here."""
        contained = []
        with suppress(NotFound):  # as above
            for generation in read_lines(self._store, shard, Generation, skip_unreadable=True):
                contained.append(generation.key)
                if wanted.wants(generation.key):
                    yield generation
            # Whole, or another release would not look for what this one cannot read.
            left_out = self._store.unreadable.reasons()
            if not any(key.startswith(shard) for key in left_out):
                self._index.add(shard, contained)

    def _parse_pending(self, key: str, payload: str) -> Generation | None:
        """None, and an alarm, for one that this release cannot read: it is asked for again."""
        try:
            return parse_stored_record(Generation, payload, f"generation {key}")
        except UnreadableRecord as error:
            self._store.unreadable.add(f"generation {key}", error.message)
            return None

    def add(self, generations: Iterable[Generation], account: AccountUpdate | None = None) -> None:
        """With them the account of the job that paid is updated."""
        payloads = {each.key: each.model_dump_json() for each in generations}
        self._buffer.add(self._buffer_name, payloads, account)

    def flush(self) -> None:
        """Move the buffer into a shard. Two jobs at once write it twice and lose nothing. What this
        release cannot read is paid all the same and stays where a later one finds it."""
        pending = self._buffer.read_all(self._buffer_name)
        if not pending:
            return
        content = keys.digest(*(pending[key] for key in sorted(pending)))
        shard = keys.generation_shard_key(self._teacher, self._sampling, content)
        flushed = list[str]()

        def parse_pending() -> Iterator[Generation]:
            for key in sorted(pending):
                if (found := self._parse_pending(key, pending[key])) is not None:
                    flushed.append(key)
                    yield found

        write_lines(self._store, shard, parse_pending())
        self._buffer.remove(self._buffer_name, flushed)
        self._index.add(shard, flushed)
