"""Ranks that are processes, started by torchrun or by anything that sets its variables.

Tensors go by torch's process group, with a timeout; everything that may take long is waited for
beside it, by counters in the rendezvous store, for as long as the other ranks are alive.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from qcrd.errors import QcrdError, Transient
from qcrd.method.distributed.ranks import Json, Ranks

COLLECTIVE_TIMEOUT = timedelta(minutes=5)
"""Of a step's collectives: no rank keeps the others waiting for longer than a step takes."""
BACKGROUND_TIMEOUT = timedelta(hours=1)
"""Of the collectives of a checkpoint, which wait for every rank's upload."""
BEAT_SECONDS = 2.0
LOST_SECONDS = 60.0
"""Time without a beat after which a rank is lost: its process, or its machine."""
MAX_POLL_SECONDS = 0.2
FAILURE = "failure"


class RankLost(Transient):
    """Another rank has ended or cannot be reached: the training goes on from its checkpoint."""

    default_code = "rank_lost"


def is_connection_error(error: BaseException) -> bool:
    """Whether a collective failed because another rank is gone, and not for what this one did."""
    told = str(error)
    return isinstance(error, dist.DistBackendError | dist.DistNetworkError) or (
        isinstance(error, RuntimeError) and ("gloo" in told or "NCCL" in told)
    )


class RankFailed(QcrdError):
    """Another rank failed and said why: `failure` is what it told."""

    def __init__(self, rank: int, failure: Json) -> None:
        super().__init__(f"rank {rank} failed: {failure}")
        self.failure = failure


def is_distributed() -> bool:
    """Whether this process was started as one of several, or as one that may become so."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ


def is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


class ProcessRanks(Ranks):
    """The process group of this training, as a context manager.

    A step's collectives fail after `timeout`; `lost_seconds` without a sign of life make a rank
    lost. A rank that itself hears nothing of the others for so long may wait inside torch, where
    nothing can be raised: `on_cut_off` is called with the reason then, in a thread.
    """

    def __init__(
        self,
        *,
        timeout: timedelta = COLLECTIVE_TIMEOUT,
        beat_seconds: float = BEAT_SECONDS,
        lost_seconds: float = LOST_SECONDS,
        on_cut_off: Callable[[str], None] | None = None,
    ) -> None:
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self._timeout, self._lost_seconds = timeout, lost_seconds
        self._beat_seconds = beat_seconds
        self._round = 0
        self._closed = threading.Event()
        self._beats: dict[int, tuple[int, float]] = {}
        """Rank -> its last beat, and when that was seen."""
        self._on_cut_off = on_cut_off
        self._unanswered_since: float | None = None

    def __enter__(self) -> Self:
        store, _, _ = next(rendezvous("env://", timeout=self._timeout))
        self._store = PrefixStore("ranks", store)
        # A connection of its own: one that waits for an answer blocks whoever shares it.
        self._beat_store = PrefixStore("ranks", store.clone())
        self._beating = threading.Thread(target=self._beat_loop, daemon=True)
        self._beating.start()
        if self._on_cut_off is not None:
            threading.Thread(target=self._watch_answers, daemon=True).start()
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(
            backend,
            store=PrefixStore("collectives", store),
            rank=self.rank,
            world_size=self.size,
            timeout=self._timeout,
        )
        self.background_group = dist.new_group(backend="gloo", timeout=BACKGROUND_TIMEOUT)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed.set()
        # A thread that is inside the store when the interpreter ends would abort the process.
        self._beating.join(self._lost_seconds)

    def finish(self) -> None:
        """Take the group down, together with all others. Not after an error: they may be gone, and
        it would wait for them."""
        dist.destroy_process_group()

    def sum(self, values: Sequence[float]) -> list[float]:
        total = torch.tensor(list(values), dtype=torch.float64)
        dist.all_reduce(total)
        result: list[float] = total.tolist()
        return result

    def gather(self, work: Callable[[], Json]) -> list[Json]:
        outcome, error = _try(work)
        outcomes = self._exchange(outcome)
        _raise_first(outcomes, self.rank, error)
        return [one["result"] for one in outcomes]

    def run_on_main(self, work: Callable[[], Json]) -> Json:
        outcome, error = _try(work) if self.is_main else (None, None)
        outcomes = self._exchange(outcome)
        _raise_first(outcomes[:1], self.rank, error)
        return outcomes[0]["result"]

    def gather_in_background(self, work: Callable[[], Json]) -> list[Json]:
        outcome, error = _try(work)
        parts = _all_gather_bytes(json.dumps(outcome).encode(), self.background_group)
        outcomes = [json.loads(part) for part in parts]
        _raise_first(outcomes, self.rank, error)
        return [one["result"] for one in outcomes]

    def report_failure(self, failure: Json) -> None:
        """Tell the other ranks that this one ends, and why. The first that fails is heard."""
        with contextlib.suppress(RuntimeError):  # the store is gone, and with it who would hear
            self._store.compare_set(FAILURE, "", json.dumps([self.rank, failure]))

    def find_failure(self) -> RankFailed | None:
        """What another rank told when it failed."""
        try:
            if not self._store.check([FAILURE]):
                return None
            rank, failure = json.loads(self._store.get(FAILURE))
        except RuntimeError:
            return None
        return None if rank == self.rank else RankFailed(rank, failure)

    def _exchange(self, message: Json) -> list[Json]:
        """Every rank's message, once all have come here, however long that takes."""
        self._round += 1
        arrived = f"arrived/{self._round}"
        self._store.add(arrived, 1)
        delay = 0.001
        while self._store.add(arrived, 0) < self.size:
            self._raise_if_lost()
            time.sleep(delay)
            delay = min(MAX_POLL_SECONDS, 1.5 * delay)
        return [json.loads(part) for part in _all_gather_bytes(json.dumps(message).encode())]

    def _raise_if_lost(self) -> None:
        if (failure := self.find_failure()) is not None:
            raise failure
        now = time.monotonic()
        for rank in set(range(self.size)) - {self.rank}:
            beat = self._store.add(f"beat/{rank}", 0)
            last_beat, seen_at = self._beats.get(rank, (-1, now))
            if beat != last_beat:
                self._beats[rank] = (beat, now)
            elif now - seen_at > self._lost_seconds:
                raise RankLost(
                    f"rank {rank} of {self.size} has given no sign of life for "
                    f"{now - seen_at:.0f} s: its process or its machine is gone"
                )

    def _beat_loop(self) -> None:
        with contextlib.suppress(RuntimeError):  # the others see that this rank beats no more
            while not self._closed.wait(self._beat_seconds):
                self._unanswered_since = time.monotonic()
                self._beat_store.add(f"beat/{self.rank}", 1)
                self._unanswered_since = None

    def _watch_answers(self) -> None:
        """Until a beat is not answered. Two looks have to agree: at the first one after a process
        was stopped its answer may only wait to be read."""
        assert self._on_cut_off is not None
        suspected: float | None = None
        while not self._closed.wait(self._beat_seconds):
            since = self._unanswered_since
            is_late = since is not None and time.monotonic() - since > self._lost_seconds
            if is_late and since == suspected:
                self._on_cut_off(
                    f"rank {self.rank} of {self.size} has had no answer of rank 0's machine for "
                    f"{self._lost_seconds:.0f} s: it, or the network between, is gone"
                )
                return
            suspected = since if is_late else None


def _try(work: Callable[[], Json]) -> tuple[dict[str, Json], QcrdError | None]:
    """What `work` returned, or our error that it raised, as a message and as it is. Any other error
    ends this rank."""
    try:
        return {"result": work()}, None
    except QcrdError as error:
        told = {"param": error.param, "code": error.code}
        return {"error": type(error).__name__, "message": error.message, **told}, error


def _raise_first(outcomes: Sequence[Json], own_rank: int, own_error: QcrdError | None) -> None:
    for rank, outcome in enumerate(outcomes):
        if "error" not in outcome:
            continue
        if rank == own_rank and own_error is not None:
            raise own_error
        kind = _find_error_class(outcome["error"])
        raise kind(outcome["message"], param=outcome["param"], code=outcome["code"])


def _find_error_class(name: str) -> type[QcrdError]:
    kinds: list[type[QcrdError]] = [QcrdError]
    for kind in kinds:
        if kind.__name__ == name:
            return kind
        kinds += kind.__subclasses__()
    return QcrdError


def _all_gather_bytes(message: bytes, group: dist.ProcessGroup | None = None) -> list[bytes]:
    """Every rank's message. Bytes that only JSON made: nothing is unpickled."""
    size = dist.get_world_size()
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(size)]
    dist.all_gather(lengths, torch.tensor([len(message)]), group=group)
    width = max(int(length) for length in lengths)
    padded = torch.zeros(width, dtype=torch.uint8)
    padded[: len(message)] = torch.frombuffer(bytearray(message or b"\0"), dtype=torch.uint8)[
        : len(message)
    ]
    parts = [torch.zeros(width, dtype=torch.uint8) for _ in range(size)]
    dist.all_gather(parts, padded, group=group)
    return [bytes(part[: int(n)].numpy()) for part, n in zip(parts, lengths, strict=True)]
