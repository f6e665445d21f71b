"""Start one process of the stack so that it cannot outlive its supervisor.

`python -m qcrd.cli.stack.launch PART` becomes that part's command of the Procfile `QCRD_PROCFILE`;
`python -m qcrd.cli.stack.launch --supervisor PID COMMAND…` becomes supervisord, tied to the process
PID (`-`: to none).
On Linux the kernel sends the signal of `PR_SET_PDEATHSIG` when the parent dies, however it dies;
elsewhere a supervisor that is killed with SIGKILL leaves its parts behind.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from qcrd.cli.stack import procfile
from qcrd.runtime.parent_death import die_with_parent

SUPERVISOR_PID = "QCRD_SUPERVISOR_PID"


def exec_supervisor(arguments: list[str]) -> None:
    parent_pid, *command = arguments
    if parent_pid != "-":
        # SIGTERM, not SIGKILL: it stops its parts in order.
        die_with_parent(int(parent_pid), signal.SIGTERM)
    os.environ[SUPERVISOR_PID] = str(os.getpid())
    os.execvp(command[0], command)


def exec_part(name: str) -> None:
    # SIGKILL: no supervisor is left to enforce a stop, and every part tolerates a kill.
    die_with_parent(int(os.environ[SUPERVISOR_PID]), signal.SIGKILL)
    commands = procfile.read_procfile(Path(os.environ["QCRD_PROCFILE"]))
    command = procfile.build_argv(commands[name], os.environ)
    if command[0] == "python":
        command[0] = sys.executable
    os.execvp(command[0], command)


if __name__ == "__main__":
    if sys.argv[1] == "--supervisor":
        exec_supervisor(sys.argv[2:])
    else:
        exec_part(sys.argv[1])
