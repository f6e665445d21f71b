"""A worker in a process of its own, forked from the one that has loaded the model.

Threads that share a Python wait for each other between the calls of the model, of which a step has
hundreds. A fork has the weights in memory that it shares with the others, and imports nothing.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import stat
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, cast

import torch

from services.teacher.engines.base import Token, ValidGenerateRequest
from services.teacher.engines.transformers.request_stream import (
    Delivered,
    RequestStream,
    ScoringRequest,
    StreamItem,
    Worker,
    deliver_to_loops,
)
from services.teacher.engines.transformers.worker import WorkerSetup, WorkerThread
from services.teacher.errors import GenerationFailed
from services.teacher.metrics.batches import BatchMetrics

Asked = tuple[str, int, ValidGenerateRequest | None]
"""To the process: `submit`, `score` or `cancel` with a number that the asker gives."""
ToldItem = tuple[int, Token | str | None]
"""From it: a stream's number and its next token, why it failed, or its end."""


class WorkerProcess(Worker):
    """The near end: its process is forked here, and answers to a thread. When the process dies its
    requests fail, and `on_death` is told why, from that thread."""

    def __init__(
        self,
        setup: WorkerSetup,
        batch_metrics: BatchMetrics,
        *,
        threads: int,
        on_death: Callable[[str], None],
    ) -> None:
        super().__init__(setup.limits.slots)
        self._batch_metrics, self._on_death = batch_metrics, on_death
        self._prefilled_tokens = 0
        self._numbers = itertools.count()
        self._streams: dict[int, RequestStream] = {}
        self._scorings: dict[int, ScoringRequest] = {}
        self._closing = self._has_ended = False
        self._connection, far_end = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("fork").Process(
            target=_run_process,
            args=(far_end, setup, threads),
            name="local",
            daemon=True,
        )
        self._process.start()
        far_end.close()
        self._thread = threading.Thread(target=self._receive, name="local", daemon=True)

    @property
    def prefilled_tokens(self) -> int:
        return self._prefilled_tokens

    def start(self) -> None:
        self._thread.start()

    def submit(self, asked: RequestStream | ScoringRequest) -> None:
        number = next(self._numbers)
        if isinstance(asked, RequestStream):
            asked.number = number
            self._streams[number] = asked
            self._send(("submit", number, asked.request))
        elif asked.result.set_running_or_notify_cancel():
            self._scorings[number] = asked
            self._send(("score", number, asked.request))
        if self._has_ended:
            self._fail_open()

    def cancel(self, stream: RequestStream) -> None:
        if self._streams.pop(stream.number, None) is not None:
            self._send(("cancel", stream.number, None))

    def close(self) -> None:
        self._closing = True
        self._send(None)
        if self._thread.is_alive():
            self._thread.join()
        self._process.join()

    def _send(self, message: Asked | None) -> None:
        with suppress(OSError):  # it has ended, which the thread is told
            self._connection.send(message)

    def _receive(self) -> None:
        """The thread's loop, until the process ends."""
        handlers: dict[str, Callable[..., None]] = {
            "deliver": self._deliver,
            "score": self._finish_scoring,
            "batch": partial(self._batch_metrics.set_current_batch, self),
            "record": lambda name, *args, **named: getattr(self._batch_metrics, name)(
                *args, **named
            ),
        }
        with suppress(EOFError, OSError):
            while True:
                kind, args, named = self._connection.recv()
                handlers[kind](*args, **named)
        self._process.join()
        self._has_ended = True
        self._batch_metrics.set_current_batch(self, size=0, max_tokens=0)
        if self._closing:
            deliver_to_loops([(stream, None) for stream in list(self._streams.values())])
        else:
            self._fail_open()
            self._on_death(self._describe_end())

    def _deliver(self, told: Sequence[ToldItem], prefilled: int, largest: int) -> None:
        self._prefilled_tokens, self.largest_batch = prefilled, largest
        items: list[tuple[RequestStream, StreamItem]] = []
        for number, item in told:
            if (stream := self._streams.get(number)) is not None:
                items.append((stream, RuntimeError(item) if isinstance(item, str) else item))
            if not isinstance(item, Token):
                self._streams.pop(number, None)
        deliver_to_loops(items)

    def _finish_scoring(self, number: int, result: list[Token] | str) -> None:
        scoring = self._scorings.pop(number)
        if isinstance(result, str):
            scoring.result.set_exception(GenerationFailed(result))
        else:
            scoring.result.set_result(result)

    def _fail_open(self) -> None:
        reason = self._describe_end()
        streams, self._streams = self._streams, {}
        scorings, self._scorings = self._scorings, {}
        deliver_to_loops([(stream, RuntimeError(reason)) for stream in streams.values()])
        for scoring in scorings.values():
            scoring.result.set_exception(GenerationFailed(reason))

    def _describe_end(self) -> str:
        return f"a copy of the model has died (exit code {self._process.exitcode})"


# --- in the process -------------------------------------------------------------------------------


def _run_process(connection: Connection, setup: WorkerSetup, threads: int) -> None:
    # Signals to the server's group are the server's, which ends this process when it has drained.
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    _release_sockets(but=connection.fileno())
    torch.set_num_threads(threads)
    _FarEnd(connection, setup).run()


def _release_sockets(*, but: int) -> None:
    """Let go of the server's sockets: held here too, a client's connection would stay open when the
    server closes it, its port taken when it has ended, and its other processes would not notice.
    Their numbers stay taken, as there are objects that may still close them."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # the one of the list itself is closed
            if number != but and stat.S_ISSOCK(os.fstat(number).st_mode):
                os.dup2(nothing, number)
    os.close(nothing)


class _FarEnd:
    """Does what comes out of the connection, until it is closed."""

    def __init__(self, connection: Connection, setup: WorkerSetup) -> None:
        self._connection = connection
        self._streams: dict[int, RequestStream] = {}
        metrics = cast(BatchMetrics, _FarMetrics(self._tell))
        self._worker = WorkerThread(setup, metrics, self._deliver)

    def run(self) -> None:
        self._worker.start()
        with suppress(EOFError, OSError):
            while (message := self._connection.recv()) is not None:
                self._take(*message)
        self._worker.close()

    def _take(self, kind: str, number: int, request: ValidGenerateRequest) -> None:
        if kind == "submit":
            stream = self._streams[number] = RequestStream(request, number=number)
            self._worker.submit(stream)
        elif kind == "score":
            scoring = ScoringRequest(request)
            scoring.result.add_done_callback(partial(self._tell_score, number))
            self._worker.submit(scoring)
        elif (cancelled := self._streams.pop(number, None)) is not None:
            self._worker.cancel(cancelled)

    def _deliver(self, items: Delivered) -> None:
        told: list[ToldItem] = []
        for stream, item in items:
            # Not every exception can be sent.
            told.append((stream.number, str(item) if isinstance(item, Exception) else item))
            if not isinstance(item, Token):
                self._streams.pop(stream.number, None)
        self._tell("deliver", told, self._worker.prefilled_tokens, self._worker.largest_batch)

    def _tell_score(self, number: int, result: Future[list[Token]]) -> None:
        error = result.exception()
        self._tell("score", number, result.result() if error is None else str(error))

    def _tell(self, kind: str, *args: Any, **named: Any) -> None:
        with suppress(OSError):  # the server is gone, and so will this be
            self._connection.send((kind, args, named))


class _FarMetrics:
    """Metrics that are kept in the server's process."""

    def __init__(self, tell: Callable[..., None]) -> None:
        self._tell = tell

    def set_current_batch(self, runner: object, **named: int) -> None:
        self._tell("batch", **named)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return partial(self._tell, "record", name)
