"""A call in a thread of its own: what comes of it, and what it knows of its caller."""

from __future__ import annotations

import contextvars
import threading

import pytest

from qcrd.runtime.daemon_call import start_daemon_call

REQUEST: contextvars.ContextVar[str] = contextvars.ContextVar("request")


def test_a_call_has_its_caller_s_context_in_a_thread_that_no_process_waits_for() -> None:
    REQUEST.set("r-1")

    def call() -> tuple[str, str, bool]:
        thread = threading.current_thread()
        return REQUEST.get(), thread.name, thread.daemon

    assert start_daemon_call(call, name="asked").result(60) == ("r-1", "asked", True)


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_whatever_ends_a_call_is_raised_where_it_is_waited_for(kind: type[BaseException]) -> None:
    def call() -> None:
        raise kind("so")

    with pytest.raises(kind, match="so"):
        start_daemon_call(call).result(60)
