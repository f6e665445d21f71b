"""A job's training state in the store: where each of its students is, or how it ended.

A state is a manifest `states/<step>.json`, written last, that names its blobs by their SHA-256;
equal tensors are one blob. Nothing is taken from a state that is not whole, byte for byte.
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
from qcrd.records.base import Record
from qcrd.records.checkpoint import CheckpointManifest
from qcrd.records.job import Accuracy
from qcrd.records.rationales import Prediction
from qcrd.runtime import keys
from qcrd.runtime.storage.store import Store, read_object, read_record, write_record

KEPT = 2
"""Newest states that stay: one to go on from, and one more in case it is damaged."""
PREPARED = "prepared"


class Result(Record):
    """How a student ended: measured, with everything that the report says about it."""

    validation: Accuracy
    test: Accuracy | None
    predictions: tuple[Prediction, ...]
    flops: float
    steps: int
    seconds: float
    judge: dict[str, float] = Field(default_factory=dict)


class Damaged(Exception):
    """A state that cannot be gone on from, and why."""


class Checkpoints:
    """Of one job. `run` identifies what it trains: states of anything else are refused.

    `seconds` of training between two states: what a kill may cost.
    """

    def __init__(self, store: Store, job_id: str, *, run: str, seconds: float) -> None:
        self.seconds = seconds
        self._store = store
        self._run = run
        self._prefix = keys.checkpoint_prefix(job_id)
        self._hashes: dict[str, str] = {}
        """Key prefix and name of tensors that never change -> their SHA-256, once known."""

    def save(self, method: str, state: TrainerState) -> int:
        """Write `state`; older ones than the newest `KEPT` go. Returns the oldest version of the
        judge that a kept state goes on with."""
        folder = self._folder(method)
        there = set(self._store.list(f"{folder}blobs/"))
        blobs = {name: self._put(folder, name, part, there) for name, part in state.tensors.items()}
        if state.iteration_data is not None:
            data = json.dumps(state.iteration_data).encode()
            blobs[PREPARED] = self._send(folder, data, there)
        made = CheckpointManifest(
            run=self._run, numbers=dict(state.numbers), blobs=blobs, saved_at=time.time()
        )
        made = made.model_copy(update={"check": made.digest})
        write_record(self._store, f"{folder}states/{state.numbers['step']:08d}.json", made)
        return self._prune(folder, there)

    def load(self, method: str) -> tuple[TrainerState | None, Sequence[str]]:
        """The newest state that is whole, and why each newer one is not."""
        folder = self._folder(method)
        refused: list[str] = []
        for key in sorted(self._store.list(f"{folder}states/"), reverse=True):
            try:
                return self._read(folder, key), refused
            except Damaged as error:
                refused.append(f"{key.rsplit('/', 1)[1]}: {error}")
        return None, refused

    def finish(self, method: str, result: Result) -> None:
        """Keep the result; the states that led to it are no longer needed."""
        write_record(self._store, self._result_key(method), result)
        # In reverse 'states/' comes before 'blobs/': no manifest is left that lacks its blobs.
        for key in sorted(self._store.list(self._folder(method)), reverse=True):
            if key != self._result_key(method):
                self._store.delete(key)

    def result(self, method: str) -> Result | None:
        try:
            return read_record(self._store, self._result_key(method), Result)
        except NotFound:
            return None

    def _folder(self, method: str) -> str:
        return f"{self._prefix}{method}/"

    def _result_key(self, method: str) -> str:
        return f"{self._folder(method)}result.json"

    def _put(self, folder: str, name: str, part: Mapping[str, Tensor], there: set[str]) -> str:
        known = self._hashes.get(folder + name)
        if known is not None and _blob(folder, known) in there:
            return known
        sha = self._send(folder, save(dict(part)), there)
        if name not in (LIVE_WEIGHTS, OPTIMIZER_MOMENTS):
            self._hashes[folder + name] = sha
        return sha

    def _send(self, folder: str, data: bytes, there: set[str]) -> str:
        sha = _sha256(data)
        if _blob(folder, sha) not in there:
            self._store.put(_blob(folder, sha), data)
            there.add(_blob(folder, sha))
        return sha

    def _prune(self, folder: str, there: set[str]) -> int:
        """Manifests first: no state is left that lacks its blobs."""
        states = sorted(self._store.list(f"{folder}states/"))
        for key in states[:-KEPT]:
            self._store.delete(key)
        kept = []
        for key in states[-KEPT:]:
            try:
                kept.append(self._manifest(key))
            except Damaged:
                continue
        needed = {_blob(folder, sha) for manifest in kept for sha in manifest.blobs.values()}
        for key in there - needed:
            self._store.delete(key)
        return min(int(manifest.numbers["judge_version"]) for manifest in kept)

    def _read(self, folder: str, key: str) -> TrainerState:
        manifest = self._manifest(key)
        if manifest.run != self._run:
            raise Damaged("it belongs to a run with another spec")
        tensors, prepared = {}, None
        for name, sha in manifest.blobs.items():
            data = self._fetch(folder, name, sha)
            if name == PREPARED:
                prepared = json.loads(data)
            else:
                tensors[name] = load(data)
        return TrainerState(tensors, manifest.numbers, prepared)

    def _manifest(self, key: str) -> CheckpointManifest:
        try:
            manifest = read_record(self._store, key, CheckpointManifest)
        except QcrdError as error:
            raise Damaged("its manifest cannot be read") from error
        if manifest.digest != manifest.check:
            raise Damaged("its manifest is not what was written")
        return manifest

    def _fetch(self, folder: str, name: str, sha: str) -> bytes:
        try:
            data = read_object(self._store, _blob(folder, sha))
        except NotFound as error:
            raise Damaged(f"its {name} is missing") from error
        if _sha256(data) != sha:
            raise Damaged(f"its {name} is not what was written")
        return data


def _blob(folder: str, sha: str) -> str:
    return f"{folder}blobs/{sha}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
