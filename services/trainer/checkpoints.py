"""A job's training state in the store: where each of its students is, or how it ended."""

from __future__ import annotations

import json

from pydantic import Field
from safetensors.torch import load, save
from torch import Tensor

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
    """Of one job. A state is there when its numbers are, which are written last.

    `seconds` of training between two states: what a kill may cost.
    """

    def __init__(self, store: Store, job_id: str, *, seconds: float) -> None:
        self.seconds = seconds
        self._store = store
        self._prefix = keys.checkpoint_prefix(job_id)

    def save(self, method: str, state: State) -> None:
        """Weights of an iteration never change, so only the newest are sent; numbers last."""
        folder, there = self._folder(method), set(self._store.list(self._folder(method)))
        for iteration, weights in state.weights.items():
            key = f"{folder}weights/{iteration:06d}.safetensors"
            if key not in there:
                self._store.put(key, save(dict(weights)))
        newest = f"{state.numbers['iteration']:06d}"
        self._store.put(f"{folder}moments/{newest}.safetensors", save(dict(state.moments)))
        self._store.put(f"{folder}{newest}.json", json.dumps(dict(state.numbers)).encode())
        kept = {f"{folder}weights/{iteration:06d}.safetensors" for iteration in state.weights}
        kept |= {f"{folder}moments/{newest}.safetensors", f"{folder}{newest}.json"}
        # Numbers first ('0' sorts before 'm' and 'w'): no state is left that lacks its tensors.
        for key in sorted(there - kept):
            self._store.delete(key)

    def load(self, method: str) -> State | None:
        folder = self._folder(method)
        listed = [key.removeprefix(folder) for key in self._store.list(folder)]
        states = [name for name in listed if name[0].isdigit()]
        if not states:
            return None
        newest = states[-1].removesuffix(".json")
        numbers = json.loads(read(self._store, f"{folder}{newest}.json"))
        wanted = {*numbers["ring"], *([numbers["best"][0]] if numbers["best"] else [])}
        weights = {
            iteration: self._tensors(f"{folder}weights/{iteration:06d}") for iteration in wanted
        }
        return State(weights, self._tensors(f"{folder}moments/{newest}"), numbers)

    def finish(self, method: str, result: Result) -> None:
        """Keep the result; the states that led to it are no longer needed."""
        write_record(self._store, self._result_key(method), result)
        for key in self._store.list(self._folder(method)):
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

    def _tensors(self, key: str) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = load(read(self._store, f"{key}.safetensors"))
        return tensors
