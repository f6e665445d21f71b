"""A process that ends with the one that started it, however that one ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(parent: int, signum: signal.Signals) -> None:
    """Exit now if process `parent` is already gone; otherwise get `signum` when it goes.

    On Linux the kernel sends it, SIGKILL of the parent included; elsewhere nobody does.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signum), 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)
