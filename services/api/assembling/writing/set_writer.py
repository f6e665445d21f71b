"""Writes a rationale set shard by shard; of its items those of one shard are held."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice
from typing import TypeVar

from qcrd.errors import QcrdError
from qcrd.questions.item_tally import ItemTally
from qcrd.records.rationales import RationaleCounts, RationaleItem, RationaleManifest, TestItem
from qcrd.records.reports.serving import TeacherServing
from qcrd.runtime import keys
from qcrd.runtime.jobs.stage_context import StageContext
from qcrd.runtime.storage.json_lines import write_lines
from qcrd.runtime.storage.store import write_record
from services.api.assembling import sampling_plan
from services.api.rationale_sets.index import IndexWriter

SHARD_SIZE = 1000
"""Questions per shard: about 1 MB of text with five rationales each."""
T = TypeVar("T")


class SetWriter:
    """The set of the stage's job, under the job's id, so that an attempt after a crash replaces its
    remains. It is there when `write_manifest` has written its description."""

    def __init__(self, stage: StageContext) -> None:
        self.set_id = f"set-{keys.digest(stage.job.id)}"
        self.tally = ItemTally()
        self._stage = stage
        self._index = IndexWriter()
        self._shards = list[str]()

    def write_items(self, items: Iterable[RationaleItem]) -> None:
        remaining = iter(items)
        while shard := list(islice(remaining, SHARD_SIZE)):
            key = keys.rationale_shard_key(self.set_id, len(self._shards))
            self._shards.append(key)
            write_lines(self._stage.store, key, shard)
            self._index.add_shard(shard)
            for item in shard:
                self.tally.add(item)

    def check(self, check: Callable[[], T]) -> T:
        """The result of `check`; where it raises, nothing is left of a set that was not there."""
        try:
            return check()
        except QcrdError:
            with suppress(QcrdError):  # they are only in the way
                self._delete_shards()
            raise

    def _delete_shards(self) -> None:
        store = self._stage.store
        if not store.list(keys.rationale_manifest_key(self.set_id), limit=1):
            for key in self._shards:
                store.delete(key)

    def write_manifest(
        self,
        counts: RationaleCounts,
        serving: TeacherServing | None,
        *,
        validation: Iterable[TestItem] | None,
        test: Iterable[TestItem] | None,
    ) -> None:
        """With what goes before it: the index and what is held out, None where there is none."""
        store, job = self._stage.store, self._stage.job
        self._index.write(store, self.set_id)
        manifest = RationaleManifest(
            id=self.set_id,
            shards=tuple(self._shards),
            counts=counts,
            validation=self._write_held_out("validation", validation),
            test=self._write_held_out("test", test),
            created_at=time.time(),
            training_file=job.spec.training_file,
            job_id=job.id,
            teacher=job.spec.settings.teacher if sampling_plan.asks_teacher(job.spec) else None,
            words=self.tally.measure_lengths(),
            serving=serving,
        )
        write_record(store, keys.rationale_manifest_key(self.set_id), manifest)

    def _write_held_out(self, name: str, items: Iterable[TestItem] | None) -> str | None:
        if items is None:
            return None
        key = keys.rationale_holdout_key(self.set_id, name)
        write_lines(self._stage.store, key, items)
        return key
