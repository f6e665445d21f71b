"""The embedded stack: every part of the system on this machine, without containers.

`start` runs the Procfile's parts under one supervisord, `await_ready` waits until each says that it
is ready, `Stack.stop` ends them. Whether a stack runs is known by asking the supervisor's socket,
never from a file alone: the record of one that was killed, or that a reboot took, answers nobody.
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
from qcrd.cli.stack.health import Probe, probes
from qcrd.cli.stack.home import BASE_MODEL, Home, StackRecord, install_base_model
from qcrd.cli.stack.supervisord import Part, Supervisor
from qcrd.errors import Transient

READY_SECONDS = 300.0
"""A cold start of every part on a busy two-core machine takes about a minute."""
GIVE_UP_ENDS = 3
"""A part that ended this often before it was ready will not become so."""
QUIET_SECONDS = 5.0
TAIL_LINES = 25
Say = Callable[[str], None]


@dataclass
class Stack:
    """A stack that runs. `process` is the supervisor when this process started it."""

    home: Home
    record: StackRecord
    probes: dict[str, Probe]
    process: subprocess.Popen[bytes] | None = None
    _pids: dict[str, int] = field(default_factory=dict)

    def parts(self) -> list[Part]:
        return Supervisor(self.record.socket).parts()

    def is_ready(self, part: Part) -> bool:
        probe = self.probes.get(part.name)
        return part.running and (part.state == "RUNNING" if probe is None else probe())

    def restarted(self) -> list[Part]:
        """Parts that run as another process than when this was last asked."""
        running = [part for part in self.parts() if part.running]
        changed = [part for part in running if self._pids.get(part.name, part.pid) != part.pid]
        self._pids |= {part.name: part.pid for part in running}
        return changed

    def has_ended(self) -> bool:
        if self.process is not None:
            return self.process.poll() is not None
        return not supervisord.is_alive(self.record.pid)

    def stop(self) -> None:
        if not self.has_ended():
            supervisord.stop(self.record.socket, self.record.pid)
        if self.process is not None:
            self.process.wait()
        self.record.socket.unlink(missing_ok=True)
        self.home.forget_record()


def find(home: Home) -> Stack | None:
    """The stack that runs in `home`."""
    record = home.read_record()
    if record is None:
        return None
    try:
        if Supervisor(record.socket).pid() != record.pid:
            return None
    except Transient:
        return None
    return Stack(home, record, probes(record.ports))


def start(home: Home, *, commands: Path, port: int | None, tied: bool, say: Say) -> Stack:
    """Start supervisord with the servers; the services follow in `await_ready`.

    `tied`: the stack ends when this process does, even by SIGKILL.
    """
    parts = procfile.read(commands)
    environment.check_wheels()
    home.prepare()
    if (old := home.read_record()) is not None:
        say(f"the last stack (process {old.pid}) did not shut down: sweeping up after it")
    socket = home.socket()
    socket.unlink(missing_ok=True)
    chosen = _choose_ports(home, port)
    surroundings = environment.build(home, chosen, commands, os.environ)
    models = Path(surroundings["QCRD_MODELS_DIR"])
    if install_base_model(models):
        say(f"base model {BASE_MODEL} unpacked into {models}")
    conf = home.run / "supervisord.conf"
    conf.write_text(supervisord.configuration(list(parts), socket), encoding="utf-8")
    process = supervisord.start(home.run, home.logs, surroundings, tied=tied)
    record = StackRecord(pid=process.pid, socket=socket, ports=chosen, started_at=time.time())
    home.write_record(record)
    return Stack(home, record, probes(chosen), process)


def _choose_ports(home: Home, port: int | None) -> dict[str, int]:
    """The ports of the last run where they are free: the store's volumes remember an address."""
    remembered = home.data / "ports.json"
    try:
        last: dict[str, int] = json.loads(remembered.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        last = {"api": 8000}
    chosen = ports.choose(ports.PARTS, preferred=last, api=port)
    remembered.write_text(json.dumps(chosen), encoding="utf-8")
    return chosen


def await_ready(stack: Stack, say: Say, *, seconds: float = READY_SECONDS) -> None:
    """Return when every part is ready; `Transient` with the end of a part's log if one does not
    become so. Nothing is stopped here."""
    began = spoke = time.monotonic()
    ready: set[str] = set()
    ends: Counter[str] = Counter()
    last_end: dict[str, float] = {}
    while True:
        parts = _parts_once_it_answers(stack, began)
        waiting = [part for part in parts if part.name not in ready]
        for part in waiting:
            ends[part.name] += last_end.setdefault(part.name, part.ended_at) != part.ended_at
            last_end[part.name] = part.ended_at
            if stack.is_ready(part):
                ready.add(part.name)
                spoke = time.monotonic()
                say(f"{part.name} is ready ({spoke - began:.0f} s)")
            elif ends[part.name] >= GIVE_UP_ENDS:
                raise _not_ready(stack, part.name, f"ended {ends[part.name]} times")
        waiting = [part for part in waiting if part.name not in ready]
        if not waiting:
            return
        if all(part.name not in procfile.SERVERS for part in waiting):
            Supervisor(stack.record.socket).start_services()
        if time.monotonic() - began > seconds:
            raise _not_ready(stack, waiting[0].name, f"is not ready after {seconds:.0f} s")
        if time.monotonic() - spoke > QUIET_SECONDS:
            spoke = time.monotonic()
            names = ", ".join(part.name for part in waiting)
            say(f"waiting for {names} ({spoke - began:.0f} s)")
        time.sleep(0.3)


def _parts_once_it_answers(stack: Stack, began: float) -> list[Part]:
    while True:
        try:
            return stack.parts()
        except Transient:
            if stack.has_ended() or time.monotonic() - began > READY_SECONDS:
                tail = tail_of(stack.home.logs / "supervisord.err.log")
                raise Transient(f"the supervisor ended: {tail}") from None
            time.sleep(0.1)


def _not_ready(stack: Stack, part: str, what: str) -> Transient:
    log = stack.home.log(part)
    return Transient(f"{part} {what}. The end of its log, {log}:\n{tail_of(log)}")


def tail_of(log: Path) -> str:
    """The last lines of a log that may be long or not there."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 8192))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return "  (no log)"
    return "\n".join(f"  {line}" for line in lines[-TAIL_LINES:])
