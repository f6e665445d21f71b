"""A job's training state in the store: checkpoints of its students, and their results.

A state is a manifest `states/<step>.json`, written last, that names its blobs by their SHA-256;
equal tensors are one blob. A state with a missing or altered byte is not loaded.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence

from pydantic import Field
from safetensors.torch import load, save
from torch import Tensor

from qcrd.errors import NotFound, QcrdError
from qcrd.method.training.checkpoint import LIVE_WEIGHTS, OPTIMIZER_MOMENTS, TrainerState
from qcrd.records.base import StoredRecord
from qcrd.records.checkpoint import CheckpointManifest
from qcrd.records.job import Accuracy
from qcrd.records.rationales import Prediction, RationaleUse
from qcrd.runtime import keys
from qcrd.runtime.storage.store import Store, read_object, read_record, write_record

MAX_KEPT_STATES = 2
"""Newest states that are kept: one to resume from, and one more in case it is damaged."""
ITERATION_DATA = "prepared"


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


class CorruptCheckpoint(Exception):
    """A state that cannot be resumed from, and why."""


class CheckpointStore:
    """Checkpoints of one job. `run` identifies what it trains: states of other runs are refused.

    `seconds` of training between two states, the most that a kill loses.
    """

    def __init__(
        self, store: Store, job_id: str, *, run_digest: str, interval_seconds: float
    ) -> None:
        self.interval_seconds = interval_seconds
        self._store = store
        self._run_digest = run_digest
        self._prefix = keys.checkpoint_prefix(job_id)
        self._known_hashes: dict[str, str] = {}
        """Key prefix and name of tensors that never change -> their SHA-256, once known."""

    def save(self, method: str, state: TrainerState) -> int:
        """Write `state` and delete all but the newest `MAX_KEPT_STATES`. Returns the oldest version
        of the judge that a kept state needs."""
        folder = self._folder(method)
        existing = set(self._store.list(f"{folder}blobs/"))
        blobs = {
            name: self._put_tensors(folder, name, part, existing)
            for name, part in state.tensors.items()
        }
        if state.iteration_data is not None:
            data = json.dumps(state.iteration_data).encode()
            blobs[ITERATION_DATA] = self._put_blob(folder, data, existing)
        manifest = CheckpointManifest(
            run=self._run_digest, numbers=dict(state.numbers), blobs=blobs, saved_at=time.time()
        )
        manifest = manifest.model_copy(update={"check": manifest.digest})
        write_record(self._store, f"{folder}states/{state.numbers['step']:08d}.json", manifest)
        return self._prune(folder, existing)

    def load(self, method: str) -> tuple[TrainerState | None, Sequence[str]]:
        """The newest intact state, and why each newer one is not."""
        folder = self._folder(method)
        rejected: list[str] = []
        for key in sorted(self._store.list(f"{folder}states/"), reverse=True):
            try:
                return self._read_state(folder, key), rejected
            except CorruptCheckpoint as error:
                rejected.append(f"{key.rsplit('/', 1)[1]}: {error}")
        return None, rejected

    def save_result(self, method: str, result: StudentResult) -> None:
        """Save the result and delete the states, which are no longer needed."""
        write_record(self._store, self._result_key(method), result)
        # In reverse 'states/' comes before 'blobs/': no manifest is left that lacks its blobs.
        for key in sorted(self._store.list(self._folder(method)), reverse=True):
            if key != self._result_key(method):
                self._store.delete(key)

    def load_result(self, method: str) -> StudentResult | None:
        try:
            return read_record(self._store, self._result_key(method), StudentResult)
        except NotFound:
            return None

    def _folder(self, method: str) -> str:
        return f"{self._prefix}{method}/"

    def _result_key(self, method: str) -> str:
        return f"{self._folder(method)}result.json"

    def _put_tensors(
        self, folder: str, name: str, tensors: Mapping[str, Tensor], existing: set[str]
    ) -> str:
        known_sha = self._known_hashes.get(folder + name)
        if known_sha is not None and _blob_key(folder, known_sha) in existing:
            return known_sha
        sha = self._put_blob(folder, save(dict(tensors)), existing)
        if name not in (LIVE_WEIGHTS, OPTIMIZER_MOMENTS):
            self._known_hashes[folder + name] = sha
        return sha

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

    def _read_state(self, folder: str, key: str) -> TrainerState:
        manifest = self._read_manifest(key)
        if manifest.run != self._run_digest:
            raise CorruptCheckpoint("it belongs to a run with another spec")
        tensors, iteration_data = {}, None
        for name, sha in manifest.blobs.items():
            data = self._read_blob(folder, name, sha)
            if name == ITERATION_DATA:
                iteration_data = json.loads(data)
            else:
                tensors[name] = load(data)
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
