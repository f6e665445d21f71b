"""Cache of all teacher outputs, so that none is paid for twice.

An output goes into a buffer in Redis as it arrives; later the buffer is flushed to a shard whose
name is a digest of its content. Both are shared by all jobs with the same teacher and sampling.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from typing import Self

from qcrd.errors import NotFound, UnreadableRecord
from qcrd.records.base import Record, parse_stored_record
from qcrd.runtime import archive_keys, keys
from qcrd.runtime.redis.generation_buffer import AccountUpdate, GenerationBuffer
from qcrd.runtime.storage.store import Store, read_lines, write_lines
from services.api.assembling.generation_index import GenerationIndex
from services.api.assembling.sampling_plan import SampleRequest
from services.api.assembling.teacher.teacher_client import Completion


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
        """The existing generations among the `wanted` keys."""
        requested, generations = set(sample_keys), {}
        # The buffer first: what another job flushes meanwhile is then found in a shard.
        pending = self._buffer.read_all(self._buffer_name)
        shards = self._store.list(keys.generation_prefix(self._teacher, self._sampling))
        chosen, unindexed = self._index.find_shards(shards, requested)
        for number, shard in enumerate((*chosen, *unindexed)):
            contained = []
            with suppress(NotFound):  # nobody had used it for long, and it was removed
                for generation in read_lines(self._store, shard, Generation, skip_unreadable=True):
                    contained.append(generation.key)
                    if generation.key in requested:
                        generations[generation.key] = generation
                # Whole, or another release would not look for what this one cannot read.
                left_out = self._store.unreadable.reasons()
                is_whole = not any(key.startswith(shard) for key in left_out)
                if number >= len(chosen) and is_whole:
                    self._index.add(shard, contained)
        for key, payload in pending.items():
            if key in requested and (found := self._parse_pending(key, payload)) is not None:
                generations[key] = found
        return generations

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
        """Move the buffer into a shard. Two jobs at once write it twice and lose nothing."""
        pending = self._buffer.read_all(self._buffer_name)
        if not pending:
            return
        content = keys.digest(*(pending[key] for key in sorted(pending)))
        shard = keys.generation_shard_key(self._teacher, self._sampling, content)
        parsed = (self._parse_pending(key, pending[key]) for key in sorted(pending))
        write_lines(self._store, shard, (one for one in parsed if one is not None))
        self._buffer.remove(self._buffer_name, pending)
        self._index.add(shard, pending)


def find_existing(
    cache: GenerationCache, job_id: str, requests: Mapping[str, SampleRequest]
) -> dict[str, Generation]:
    """By the keys of `requests`: the outputs that any job paid for, and those that this one paid
    for when it began under a release that held no text to a grammar."""
    free_keys = {
        request.free_key: key for key, request in requests.items() if request.prompt.grammar
    }
    found = cache.find_many({*requests, *free_keys})
    own = {
        free_keys[key]: one
        for key, one in found.items()
        if key in free_keys and one.job_id == job_id
    }
    return own | {key: one for key, one in found.items() if key in requests}
