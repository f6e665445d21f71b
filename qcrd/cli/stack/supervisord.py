"""Configure, start, query and stop supervisord."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from qcrd.cli.install_hint import format_install_command
from qcrd.cli.stack.procfile import SERVERS
from qcrd.errors import Invalid, Transient

STOP_TIMEOUT_SECONDS = {"servers": 5, "services": 4}
"""Between SIGTERM and SIGKILL. The groups stop one after the other: ten seconds for everything,
enough for the store to close its volumes (three, measured)."""
KILL_TIMEOUT_SECONDS = 15.0
"""Seconds until a supervisor that does not end is killed, with its parts."""

CONFIG_HEADER = """\
[supervisord]
nodaemon=true
silent=true
nocleanup=true
umask=077
logfile=../logs/supervisord.log
logfile_maxbytes=5MB
logfile_backups=1
pidfile=supervisord.pid

[unix_http_server]
file={socket}
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
"""
GROUP_TEMPLATE = """
[group:{name}]
programs={programs}
priority={priority}
"""
PROGRAM_TEMPLATE = """
[program:{name}]
command={command}
autostart={autostart}
autorestart=true
startsecs=2
startretries=1000
stopasgroup=true
stopwaitsecs={stop_seconds}
redirect_stderr=true
stdout_logfile=../logs/{name}.log
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=2
"""


@dataclass(frozen=True)
class StackPart:
    """A supervised process. `pid` is 0 while it does not run; times are seconds since the epoch,
    `ended_at` is 0 when it never ended."""

    name: str
    state: str
    pid: int
    started_at: float
    ended_at: float

    @property
    def is_running(self) -> bool:
        return self.pid > 0


def render_config(parts: Sequence[str], socket: Path) -> str:
    """Paths are relative to the `run` folder, so that the home may contain any character."""
    groups = {
        "servers": [name for name in parts if name in SERVERS],
        "services": [name for name in parts if name not in SERVERS],
    }
    sections = [CONFIG_HEADER.format(socket=_escape(str(socket)))]
    for priority, (group, members) in enumerate(groups.items(), start=1):
        if not members:
            continue
        sections.append(
            GROUP_TEMPLATE.format(name=group, programs=",".join(members), priority=priority)
        )
        for name in members:
            command = shlex.join([sys.executable, "-m", "qcrd.cli.stack.launch", name])
            section = PROGRAM_TEMPLATE.format(
                name=name,
                command=_escape(command),
                autostart=str(group == "servers").lower(),
                stop_seconds=STOP_TIMEOUT_SECONDS[group],
            )
            sections.append(section)
    return "".join(sections)


def _escape(value: str) -> str:
    return value.replace("%", "%%")


def start_supervisord(
    run: Path, logs: Path, environment: Mapping[str, str], *, attached: bool
) -> subprocess.Popen[bytes]:
    """supervisord with the `supervisord.conf` of `run`; `attached` ends it with this process."""
    owner = str(os.getpid()) if attached else "-"
    daemon = [sys.executable, "-m", "supervisor.supervisord", "-c", "supervisord.conf"]
    with (logs / "supervisord.err.log").open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "qcrd.cli.stack.launch", "--supervisor", owner, *daemon],
            cwd=run,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            # Ctrl-C must only reach this process, which stops the parts in order.
            start_new_session=True,
        )


class SupervisorClient:
    """A supervisord behind its Unix socket. `Transient` when it is unreachable."""

    def __init__(self, socket: Path) -> None:
        try:
            from supervisor.xmlrpc import SupervisorTransport
        except ImportError as error:
            raise Invalid(
                f"the embedded stack is not installed here: {format_install_command('local')}"
            ) from error
        transport = SupervisorTransport(None, None, serverurl=f"unix://{socket}")
        self._rpc: Any = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport)

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return getattr(self._rpc.supervisor, method)(*arguments)
        except (OSError, HTTPException, xmlrpc.client.ProtocolError) as error:
            raise Transient(f"the supervisor does not respond: {error}") from error

    def get_pid(self) -> int:
        return int(self._call("getPID"))

    def list_parts(self) -> list[StackPart]:
        return [
            StackPart(info["name"], info["statename"], info["pid"], info["start"], info["stop"])
            for info in self._call("getAllProcessInfo")
        ]

    def start_services(self) -> None:
        """Idempotent: running services are left alone."""
        try:
            self._call("startProcessGroup", "services", False)
        except xmlrpc.client.Fault as error:
            if "BAD_NAME" not in error.faultString:
                raise

    def shutdown(self) -> None:
        self._call("shutdown")


def is_alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return sys.platform != "linux"
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def stop_supervisord(socket: Path, pid: int) -> None:
    """End the supervisor `pid` and all its parts, at the latest after `KILL_TIMEOUT_SECONDS`."""
    supervisor = SupervisorClient(socket)
    pids = [pid]
    try:
        pids += [part.pid for part in supervisor.list_parts() if part.is_running]
        supervisor.shutdown()
    except (Transient, xmlrpc.client.Fault):
        if is_alive(pid):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + KILL_TIMEOUT_SECONDS
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for survivor in filter(is_alive, pids):
        os.kill(survivor, signal.SIGKILL)
