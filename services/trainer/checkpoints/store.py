"""A job's training state in the store: checkpoints of its students, and their results.

A state is a manifest `states/<step>.json`, written last, that names its blobs by their SHA-256;
equal tensors are one blob. A state with a missing or altered byte is not loaded.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from safetensors.torch import save
from torch import Tensor

from qcrd.errors import NotFound, QcrdError
from qcrd.method.distributed import shard_files
from qcrd.method.distributed.ranks import Ranks, SingleRank
from qcrd.method.training.checkpoint import LIVE_WEIGHTS, OPTIMIZER_MOMENTS, TrainerState
from qcrd.records.base import StoredRecord
from qcrd.records.checkpoint import CheckpointManifest
from qcrd.records.rationales import Prediction, RationaleGap, RationaleUse
from qcrd.records.reports.accuracy import Accuracy
from qcrd.records.reports.answering import AnsweringReport
from qcrd.records.reports.doubt import CascadeReport, DoubtReport
from qcrd.records.reports.serving import StudentServing
from qcrd.runtime import keys
from qcrd.runtime.storage.store import Store, read_object, read_record, write_record

MAX_KEPT_STATES = 2
"""Newest states that are kept: one to resume from, and one more in case it is damaged."""
ITERATION_DATA = "prepared"
SHARD_MARK = "@"
"""Between a part's name and the rank whose shards of it a blob holds."""


class StudentResult(StoredRecord):
    """A trained student's result, with all of its figures in the report."""

    validation: Accuracy
    test: Accuracy | None
    predictions: tuple[Prediction, ...]
    flops: float
    steps: int
    tokens: int | None = None
    seconds: float
    judge: dict[str, float] = Field(default_factory=dict)
    rationale_use: RationaleUse | None = None
    """None for a student that does not explain, or not under a prefix of its own."""
    rationale_gap: RationaleGap | None = None
    in_force_share: float | None = None
    answering: AnsweringReport | None = None
    doubt: DoubtReport | None = None
    cascade: CascadeReport | None = None
    serving: StudentServing | None = None


class CorruptCheckpoint(Exception):
    """A state that cannot be resumed from, and why."""


ReadTensors = Callable[[str, str, torch.Size, torch.dtype], Tensor]
"""Makes the tensor to read (part, name, size, type) into."""


def make_plain(part: str, name: str, size: torch.Size, dtype: torch.dtype) -> Tensor:
    """A tensor of its own for what is not sharded."""
    return torch.empty(size, dtype=dtype)


class CheckpointStore:
    """Checkpoints of one job. `run` identifies what it trains: states of other runs are refused.

    `seconds` of training between two states, the most that a kill loses. Every one of `ranks` puts
    its shards, and takes part in each call; the main one writes the manifest when all are there.
    """

    def __init__(
        self,
        store: Store,
        job_id: str,
        *,
        run_digest: str,
        interval_seconds: float,
        ranks: Ranks | None = None,
    ) -> None:
        self.interval_seconds = interval_seconds
        self.ranks = ranks or SingleRank()
        self._store = store
        self._run_digest = run_digest
        self._prefix = keys.checkpoint_prefix(job_id)
        self._known_blobs: dict[str, dict[str, str]] = {}
        """Key prefix and name of tensors that never change -> their blobs, once known."""

    def save(self, method: str, state: TrainerState) -> int:
        """Write `state` and delete all but the newest `MAX_KEPT_STATES`. Returns the oldest version
        of the judge that a kept state needs."""
        folder = self._folder(method)
        existing = set(self._run_on_main(lambda: self._store.list(f"{folder}blobs/")))
        blobs: dict[str, str] = {}
        for name, part in state.tensors.items():
            blobs |= self._put_tensors(folder, name, part, existing)
        return int(self._run_on_main(lambda: self._write_manifest(folder, state, blobs, existing)))

    def load(
        self, method: str, make_tensor: ReadTensors = make_plain
    ) -> tuple[TrainerState | None, Sequence[str]]:
        """The newest intact state, and why each newer one is not."""
        folder = self._folder(method)
        found: list[str] = self.ranks.run_on_main(lambda: self._store.list(f"{folder}states/"))
        rejected: list[str] = []
        for key in sorted(found, reverse=True):
            with tempfile.TemporaryDirectory(prefix="qcrd-state-") as files:
                reasons = self.ranks.gather(partial(self._fetch, folder, key, Path(files)))
                if reason := next(filter(None, reasons), None):
                    rejected.append(f"{key.rsplit('/', 1)[1]}: {reason}")
                    continue
                return self._read_state(key, Path(files), make_tensor), rejected
        return None, rejected

    def save_result(self, method: str, result: StudentResult) -> None:
        """Save the result and delete the states, which are no longer needed."""
        write_record(self._store, self._result_key(method), result)
        # In reverse 'states/' comes before 'blobs/': no manifest is left that lacks its blobs.
        for key in sorted(self._store.list(self._folder(method)), reverse=True):
            if key != self._result_key(method):
                self._store.delete(key)

    def find_result(self, method: str) -> StudentResult | None:
        """The result, if there is one: the same for all ranks."""

        def read() -> Any:
            result = self.load_result(method)
            return result and result.model_dump(mode="json")

        found = self.ranks.run_on_main(read)
        return found and StudentResult.model_validate(found)

    def load_result(self, method: str) -> StudentResult | None:
        try:
            return read_record(self._store, self._result_key(method), StudentResult)
        except NotFound:
            return None

    def _folder(self, method: str) -> str:
        return f"{self._prefix}{method}/"

    def _result_key(self, method: str) -> str:
        return f"{self._folder(method)}result.json"

    def _write_manifest(
        self, folder: str, state: TrainerState, blobs: Mapping[str, str], existing: set[str]
    ) -> int:
        named = dict(blobs)
        if state.iteration_data is not None:
            data = json.dumps(state.iteration_data).encode()
            named[ITERATION_DATA] = self._put_blob(folder, data, existing)
        manifest = CheckpointManifest(
            run=self._run_digest, numbers=dict(state.numbers), blobs=named, saved_at=time.time()
        )
        manifest = manifest.model_copy(update={"check": manifest.digest})
        write_record(self._store, f"{folder}states/{state.numbers['step']:08d}.json", manifest)
        return self._prune(folder, existing | {_blob_key(folder, sha) for sha in named.values()})

    def _put_tensors(
        self, folder: str, name: str, tensors: Mapping[str, Tensor], existing: set[str]
    ) -> dict[str, str]:
        """The blobs of a part, of all ranks, by their names in the manifest."""
        known = self._known_blobs.get(folder + name)
        if known and existing.issuperset(_blob_key(folder, sha) for sha in known.values()):
            return known
        put_own = partial(self._put_own_shards, folder, name, tensors, existing)
        blobs = {
            blob: sha
            for own in self.ranks.gather_in_background(put_own)
            for blob, sha in own.items()
        }
        if name not in (LIVE_WEIGHTS, OPTIMIZER_MOMENTS):
            self._known_blobs[folder + name] = blobs
        return blobs

    def _put_own_shards(
        self, folder: str, name: str, tensors: Mapping[str, Tensor], existing: set[str]
    ) -> dict[str, str]:
        group = self.ranks.background_group
        if group is None:
            return {name: self._put_blob(folder, save(dict(tensors)), existing)}
        with tempfile.TemporaryDirectory(prefix="qcrd-state-") as files:
            return {
                f"{name}{SHARD_MARK}{self.ranks.rank}": self._put_blob(
                    folder, file.read_bytes(), existing
                )
                for file in shard_files.write_shards(tensors, Path(files), group)
            }

    def _run_on_main(self, work: Callable[[], Any]) -> Any:
        return self.ranks.gather_in_background(lambda: work() if self.ranks.is_main else None)[0]

    def _put_blob(self, folder: str, data: bytes, existing: set[str]) -> str:
        sha = _sha256(data)
        if _blob_key(folder, sha) not in existing:
            self._store.put(_blob_key(folder, sha), data)
            existing.add(_blob_key(folder, sha))
        return sha

    def _prune(self, folder: str, existing: set[str]) -> int:
        """Manifests first: no state is left that lacks its blobs."""
        states = sorted(self._store.list(f"{folder}states/"))
        for key in states[:-MAX_KEPT_STATES]:
            self._store.delete(key)
        kept = []
        for key in states[-MAX_KEPT_STATES:]:
            try:
                kept.append(self._read_manifest(key))
            except CorruptCheckpoint:
                continue
        needed = {_blob_key(folder, sha) for manifest in kept for sha in manifest.blobs.values()}
        for key in existing - needed:
            self._store.delete(key)
        return min(int(manifest.numbers["judge_version"]) for manifest in kept)

    def _fetch(self, folder: str, key: str, files: Path) -> str | None:
        """Bring the blobs of a state to `files`, one folder per part; why it cannot be used."""
        try:
            manifest = self._read_manifest(key)
            if manifest.run != self._run_digest:
                raise CorruptCheckpoint("it belongs to a run with another spec")
            for name, sha in manifest.blobs.items():
                part, _, rank = name.partition(SHARD_MARK)
                path = files / part / f"{rank or 0}.safetensors"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self._read_blob(folder, name, sha))
        except CorruptCheckpoint as error:
            return str(error)
        return None

    def _read_state(self, key: str, files: Path, make_tensor: ReadTensors) -> TrainerState:
        manifest = self._read_manifest(key)
        tensors, iteration_data = {}, None
        for part in sorted({name.partition(SHARD_MARK)[0] for name in manifest.blobs}):
            if part == ITERATION_DATA:
                iteration_data = json.loads((files / part / "0.safetensors").read_bytes())
                continue
            layout = shard_files.read_layout(files / part)
            tensors[part] = {
                name: make_tensor(part, name, size, dtype) for name, (size, dtype) in layout.items()
            }
            shard_files.read_shards(tensors[part], files / part, self.ranks.background_group)
        return TrainerState(tensors, manifest.numbers, iteration_data)

    def _read_manifest(self, key: str) -> CheckpointManifest:
        try:
            manifest = read_record(self._store, key, CheckpointManifest)
        except QcrdError as error:
            raise CorruptCheckpoint("its manifest cannot be read") from error
        if manifest.digest != manifest.check:
            raise CorruptCheckpoint("its manifest is not what was written")
        return manifest

    def _read_blob(self, folder: str, name: str, sha: str) -> bytes:
        try:
            data = read_object(self._store, _blob_key(folder, sha))
        except NotFound as error:
            raise CorruptCheckpoint(f"its {name} is missing") from error
        if _sha256(data) != sha:
            raise CorruptCheckpoint(f"its {name} is not what was written")
        return data


def _blob_key(folder: str, sha: str) -> str:
    return f"{folder}blobs/{sha}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
