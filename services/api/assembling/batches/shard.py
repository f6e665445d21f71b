"""What a job has asked its teacher for by batch: written down before it is sent.

A shard is what one batch asks for. Its record says which samples each line of the batch is for, so
that whoever finds the batch ended can keep what came of it, also after the job.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field

from qcrd.errors import NotFound
from qcrd.records.base import Record, StoredRecord
from qcrd.records.specs.spec import Budget
from qcrd.records.teachers.prompt import PromptStyle
from qcrd.runtime import keys
from qcrd.runtime.storage.json_lines import read_lines, write_lines
from qcrd.runtime.storage.store import Store, find_record, write_record
from services.api.assembling.sampling_plan import SampleRequest
from services.api.assembling.teacher.prompt_refused import RefusalReason
from services.api.assembling.tokens.token_account import SHARD_PREFIX
from services.api.assembling.tokens.token_sums import NOTHING, Tokens

NAME_IN_KEY = re.compile(rf"/({SHARD_PREFIX}[0-9a-f]+)\.json")


class SampleRef(Record):
    """A sample, as its generation names it."""

    key: str
    index: int


class ShardLine(Record):
    """One request of a batch: samples of one prompt. `prompt_tokens` are estimated, `prompt_bytes`
    the length of its text."""

    samples: tuple[SampleRef, ...]
    prompt_tokens: int
    prompt_bytes: int
    max_new_tokens: int

    @property
    def custom_id(self) -> str:
        return make_custom_id(self.samples)

    @property
    def reserved(self) -> Tokens:
        completion = self.max_new_tokens * len(self.samples)
        return Tokens(self.prompt_tokens, completion, estimated=True).by_batch()


class Shard(StoredRecord):
    """`teacher` and `sampling` are the fingerprints under which its generations are kept;
    `parameters` the names that its requests have besides the prompt. `sent_at` is when the batch
    was last asked for, in seconds since the epoch; without `batch_id` it is not known whether there
    is one. The lines are an object of their own, which is written once."""

    name: str
    job_id: str
    teacher_name: str
    teacher: str
    sampling: str
    sent_at: float
    parameters: tuple[str, ...] = ()
    batch_id: str | None = None
    lines: Annotated[tuple[ShardLine, ...], Field(exclude=True)] = ()

    @property
    def reserved(self) -> Tokens:
        return sum((line.reserved for line in self.lines), NOTHING)

    @property
    def keys(self) -> Iterator[str]:
        return (sample.key for line in self.lines for sample in line.samples)


class RefusedLine(Record):
    """A prompt that this round asks no more: a refusal would else be met again in each batch."""

    keys: tuple[str, ...]
    reason: RefusalReason
    message: str


class BatchNotes(StoredRecord):
    """What a round of batches has learnt and the next attempt of the job has to know.

    `fruitless` are the last shards, in a row, of which nothing came; `max_lines` is what the
    provider has room for, and `one_at_a_time` that it has none for a second batch. Under the budget
    `asked_under` all that could be asked is.
    """

    style: PromptStyle | None = None
    left_out: tuple[str, ...] = ()
    max_choices: int | None = None
    max_lines: int | None = None
    one_at_a_time: bool = False
    asked_under: Budget | None = None
    fruitless: tuple[str, ...] = ()
    refused: tuple[RefusedLine, ...] = ()


def make_custom_id(samples: Sequence[SampleRef] | Sequence[SampleRequest]) -> str:
    """The key of the first sample, and which samples of its prompt: a bit for each index. So a line
    says for itself what it is for."""
    mask = sum(1 << sample.index for sample in samples)
    return f"{samples[0].key}-{mask:x}"


def make_shard_name(job_id: str, number: int, sample_keys: Iterator[str]) -> str:
    """`number` counts the job's shards: the same samples may be asked for again."""
    return f"{SHARD_PREFIX}{keys.digest(job_id, str(number), *sample_keys)}"


class ShardStore:
    """The records of one job's shards, and its notes."""

    def __init__(self, store: Store, job_id: str) -> None:
        self._store = store
        self._job_id = job_id

    def write_new(self, shard: Shard) -> None:
        """With its lines."""
        write_lines(self._store, keys.batch_lines_key(self._job_id, shard.name), shard.lines)
        self.write(shard)

    def write(self, shard: Shard) -> None:
        write_record(self._store, keys.batch_shard_key(self._job_id, shard.name), shard)

    def find_without_lines(self, name: str) -> Shard | None:
        return find_record(self._store, keys.batch_shard_key(self._job_id, name), Shard)

    def find(self, name: str) -> Shard | None:
        """None also for one whose lines are gone."""
        if (shard := self.find_without_lines(name)) is None:
            return None
        key = keys.batch_lines_key(self._job_id, name)
        try:
            lines = tuple(read_lines(self._store, key, ShardLine))
        except NotFound:
            return None
        return shard.model_copy(update={"lines": lines})

    def list_names(self) -> list[str]:
        listed = self._store.list(keys.batch_prefix(self._job_id))
        return sorted({found[1] for key in listed if (found := NAME_IN_KEY.search(key))})

    def delete(self, name: str) -> None:
        self._store.delete(keys.batch_lines_key(self._job_id, name))
        self._store.delete(keys.batch_shard_key(self._job_id, name))

    def read_notes(self) -> BatchNotes:
        found = find_record(self._store, keys.batch_notes_key(self._job_id), BatchNotes)
        return found or BatchNotes()

    def write_notes(self, notes: BatchNotes) -> None:
        write_record(self._store, keys.batch_notes_key(self._job_id), notes)

    def delete_notes(self) -> None:
        self._store.delete(keys.batch_notes_key(self._job_id))


def list_jobs_with_batches(store: Store) -> list[str]:
    """Their ids, in order."""
    prefixed = (key.removeprefix(keys.BATCHES) for key in store.list(keys.BATCHES))
    return sorted({key.partition("/")[0] for key in prefixed})
