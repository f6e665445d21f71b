"""A call in a thread of its own, which a process that ends does not wait for."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

ResultT = TypeVar("ResultT")


def start_daemon_call(call: Callable[[], ResultT], *, name: str | None = None) -> Future[ResultT]:
    """What `call` will return or raise, made in a thread of that name with this one's context. A
    pool of `concurrent.futures` would be joined when the process ends, however long that takes.
    """
    outcome: Future[ResultT] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        # The boundary of the thread: whoever waits for the outcome raises it.
        try:
            outcome.set_result(context.run(call))
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return outcome
