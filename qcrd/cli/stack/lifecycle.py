"""The embedded stack: every part of the system on this machine, without containers.

`start_stack` runs the Procfile's parts under one supervisord, `wait_until_ready` waits until each
is ready, `Stack.stop` ends them. Whether a stack runs is checked on the supervisor's socket, as the
record of a stack may outlive it after a kill or a reboot.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from qcrd.cli.stack import environment, ports, procfile, supervisord
from qcrd.cli.stack.health import Probe, make_probes
from qcrd.cli.stack.home import BASE_MODEL, StackHome, StackRecord, install_base_model
from qcrd.cli.stack.supervisord import StackPart, SupervisorClient
from qcrd.errors import Transient

READY_TIMEOUT_SECONDS = 300.0
"""A cold start on a busy two-core machine takes about a minute."""
MAX_EXITS = 3
"""A part that exits this often before it is ready is considered broken."""
PROGRESS_INTERVAL_SECONDS = 5.0
TAIL_LINES = 25
PrintLine = Callable[[str], None]


@dataclass
class Stack:
    """A running stack. `process` is the supervisor if this process started it."""

    home: StackHome
    record: StackRecord
    probes: dict[str, Probe]
    process: subprocess.Popen[bytes] | None = None
    _pids: dict[str, int] = field(default_factory=dict)

    def list_parts(self) -> list[StackPart]:
        return SupervisorClient(self.record.socket).list_parts()

    def is_ready(self, part: StackPart) -> bool:
        probe = self.probes.get(part.name)
        return part.is_running and (part.state == "RUNNING" if probe is None else probe())

    def find_restarted(self) -> list[StackPart]:
        """Parts whose process has changed since the last call."""
        running = [part for part in self.list_parts() if part.is_running]
        changed = [part for part in running if self._pids.get(part.name, part.pid) != part.pid]
        self._pids |= {part.name: part.pid for part in running}
        return changed

    def has_exited(self) -> bool:
        if self.process is not None:
            return self.process.poll() is not None
        return not supervisord.is_alive(self.record.pid)

    def stop(self) -> None:
        if not self.has_exited():
            supervisord.stop_supervisord(self.record.socket, self.record.pid)
        if self.process is not None:
            self.process.wait()
        self.record.socket.unlink(missing_ok=True)
        self.home.delete_record()


def find_stack(home: StackHome) -> Stack | None:
    """The running stack of `home`."""
    record = home.read_record()
    if record is None:
        return None
    try:
        if SupervisorClient(record.socket).get_pid() != record.pid:
            return None
    except Transient:
        return None
    return Stack(home, record, make_probes(record.ports, home.load_store_keys()))


def start_stack(
    home: StackHome, *, commands: Path, port: int | None, attached: bool, print_line: PrintLine
) -> Stack:
    """Start supervisord with the servers; `wait_until_ready` starts the services.

    `attached`: the stack ends with this process, even after SIGKILL.
    """
    parts = procfile.read_procfile(commands)
    environment.check_wheels()
    home.create_folders()
    if (old := home.read_record()) is not None:
        print_line(f"the last stack (process {old.pid}) did not shut down: cleaning up")
    socket = home.socket_path()
    socket.unlink(missing_ok=True)
    chosen = _choose_ports(home, port)
    home.write_valkey_config()
    stack_env = environment.build_environment(home, chosen, commands, os.environ)
    models = Path(stack_env["QCRD_MODELS_DIR"])
    if install_base_model(models):
        print_line(f"base model {BASE_MODEL} unpacked into {models}")
    conf = home.run / "supervisord.conf"
    conf.write_text(supervisord.render_config(list(parts), socket), encoding="utf-8")
    process = supervisord.start_supervisord(home.run, home.logs, stack_env, attached=attached)
    record = StackRecord(pid=process.pid, socket=socket, ports=chosen, started_at=time.time())
    home.write_record(record)
    return Stack(home, record, make_probes(chosen, home.load_store_keys()), process)


def _choose_ports(home: StackHome, port: int | None) -> dict[str, int]:
    """Prefer the ports of the last run, as the store's volumes record their address."""
    requested = ports.read_requested_ports(os.environ, port)
    chosen = ports.choose_ports(
        ports.PORT_NAMES, preferred=read_preferred_ports(home), requested=requested
    )
    _get_ports_file(home).write_text(json.dumps(chosen), encoding="utf-8")
    return chosen


def read_preferred_ports(home: StackHome) -> dict[str, int]:
    """Those of the last run, by name; before the first, the gateway's default alone."""
    try:
        last: dict[str, int] = json.loads(_get_ports_file(home).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {"api": ports.DEFAULT_API_PORT}
    return last


def _get_ports_file(home: StackHome) -> Path:
    return home.data / "ports.json"


def wait_until_ready(
    stack: Stack, print_line: PrintLine, *, seconds: float = READY_TIMEOUT_SECONDS
) -> None:
    """Return when every part is ready; `Transient` with the end of a part's log if that part fails.
    Stops nothing."""
    started_at = printed_at = time.monotonic()
    ready: set[str] = set()
    exit_counts: Counter[str] = Counter()
    last_exit: dict[str, float] = {}
    while True:
        parts = _wait_for_parts(stack, started_at)
        waiting = [part for part in parts if part.name not in ready]
        for part in waiting:
            exit_counts[part.name] += (
                last_exit.setdefault(part.name, part.ended_at) != part.ended_at
            )
            last_exit[part.name] = part.ended_at
            if stack.is_ready(part):
                ready.add(part.name)
                printed_at = time.monotonic()
                print_line(f"{part.name} is ready ({printed_at - started_at:.0f} s)")
            elif exit_counts[part.name] >= MAX_EXITS:
                raise _not_ready_error(stack, part.name, f"ended {exit_counts[part.name]} times")
        waiting = [part for part in waiting if part.name not in ready]
        if not waiting:
            return
        if all(part.name not in procfile.SERVERS for part in waiting):
            SupervisorClient(stack.record.socket).start_services()
        if time.monotonic() - started_at > seconds:
            raise _not_ready_error(stack, waiting[0].name, f"is not ready after {seconds:.0f} s")
        if time.monotonic() - printed_at > PROGRESS_INTERVAL_SECONDS:
            printed_at = time.monotonic()
            names = ", ".join(part.name for part in waiting)
            print_line(f"waiting for {names} ({printed_at - started_at:.0f} s)")
        time.sleep(0.3)


def _wait_for_parts(stack: Stack, started_at: float) -> list[StackPart]:
    while True:
        try:
            return stack.list_parts()
        except Transient:
            if stack.has_exited() or time.monotonic() - started_at > READY_TIMEOUT_SECONDS:
                tail = read_tail(stack.home.logs / "supervisord.err.log")
                raise Transient(f"the supervisor ended: {tail}") from None
            time.sleep(0.1)


def _not_ready_error(stack: Stack, part: str, problem: str) -> Transient:
    log = stack.home.log_path(part)
    return Transient(f"{part} {problem}. The end of its log, {log}:\n{read_tail(log)}")


def read_tail(log: Path) -> str:
    """The last lines of a log file that may be missing."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return "  (no log)"
    return "\n".join(f"  {line}" for line in lines[-TAIL_LINES:])
