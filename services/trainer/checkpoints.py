"""A job's training state in the store: where each of its students is, or how it ended."""

from __future__ import annotations

import json

from pydantic import Field
from safetensors.torch import load, save

from qcrd.errors import NotFound
from qcrd.method.checkpoints import State
from qcrd.records import Accuracy, Prediction, Record
from qcrd.runtime import keys
from qcrd.runtime.store import Store, read, read_record, write_record


class Result(Record):
    """How a student ended: measured, with everything that the report says about it."""

    validation: Accuracy
    test: Accuracy | None
    predictions: tuple[Prediction, ...]
    flops: float
    steps: int
    seconds: float
    judge: dict[str, float] = Field(default_factory=dict)


class Checkpoints:
    """Of one job. A state is there when its numbers are, which are written last."""

    def __init__(self, store: Store, job_id: str) -> None:
        self._store = store
        self._prefix = keys.checkpoint_prefix(job_id)

    def save(self, method: str, state: State) -> None:
        iteration = state.numbers["iteration"]
        folder = f"{self._prefix}{method}/{iteration:06d}/"
        self._store.put(folder + "state.safetensors", save(state.tensors))
        self._store.put(folder + "numbers.json", json.dumps(state.numbers).encode())
        for old in self._written(method)[:-1]:
            self._drop(method, old)

    def load(self, method: str) -> State | None:
        if not (written := self._written(method)):
            return None
        folder = f"{self._prefix}{method}/{written[-1]:06d}/"
        numbers = json.loads(read(self._store, folder + "numbers.json"))
        return State(load(read(self._store, folder + "state.safetensors")), numbers)

    def finish(self, method: str, result: Result) -> None:
        """Keep the result; the states that led to it are no longer needed."""
        write_record(self._store, f"{self._prefix}{method}/result.json", result)
        for iteration in self._written(method):
            self._drop(method, iteration)

    def result(self, method: str) -> Result | None:
        try:
            return read_record(self._store, f"{self._prefix}{method}/result.json", Result)
        except NotFound:
            return None

    def _written(self, method: str) -> list[int]:
        prefix = f"{self._prefix}{method}/"
        names = [key.removeprefix(prefix) for key in self._store.list(prefix)]
        return sorted(int(name.split("/")[0]) for name in names if name.endswith("/numbers.json"))

    def _drop(self, method: str, iteration: int) -> None:
        folder = f"{self._prefix}{method}/{iteration:06d}/"
        for name in ("numbers.json", "state.safetensors"):
            self._store.delete(folder + name)
