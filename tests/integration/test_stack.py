"""`qcrd up` and `down` on real processes: the two servers, and services small enough to watch."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import psutil
import pytest
from minio import Minio
from redis import Redis
from redis.exceptions import AuthenticationError

from qcrd.cli.stack import lifecycle as stack
from qcrd.cli.stack.home import StackHome
from tests.bare_base import save_bare_base

COMMAND = (sys.executable, "-c", "from qcrd.cli.main import app; app()")
WEB = 'web: python -m http.server --bind 127.0.0.1 --directory "${QCRD_DATA}" ${QCRD_API_PORT}\n'
IDLE = 'idle: python -c "import time; time.sleep(1000)"\n'
# A shell: on busy cores Python alone takes longer to start than a part has to stay up to be ready.
BROKEN = 'broken: sh -c "echo no such luck; exit 3"\n'
# Deaf to SIGTERM, like a worker in the middle of a task.
DEAF = (
    'deaf: python -c "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(1000)"\n'
)


class Machine:
    """`qcrd` commands on a home of their own."""

    def __init__(self, folder: Path) -> None:
        self.home = StackHome(folder / "home")
        self.procfile = folder / "Procfile"
        self.foreground_log = folder / "foreground.log"
        save_bare_base(folder / "models" / "all-MiniLM-L6-v2")
        self.environment = os.environ | {
            "QCRD_HOME": str(self.home.root),
            "QCRD_PROCFILE": str(self.procfile),
            "QCRD_MODELS_DIR": str(folder / "models"),
        }

    def qcrd(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=90,
        )

    def up_in_foreground(self) -> subprocess.Popen[bytes]:
        with self.foreground_log.open("wb") as log:
            return subprocess.Popen([*COMMAND, "up"], env=self.environment, stdout=log, stderr=log)

    def pids(self) -> dict[str, int]:
        running = stack.find_stack(self.home)
        return {part.name: part.pid for part in running.list_parts()} if running else {}

    def supervisor(self) -> int:
        record = self.home.read_record()
        assert record is not None
        return record.pid

    def processes(self) -> list[psutil.Process]:
        """Everything alive that was started with this home in its environment."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("QCRD_HOME") == str(self.home.root)
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return [process for process in found if process.pid != os.getpid()]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.qcrd("down")
    for process in made.processes():
        process.kill()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def test_a_killed_part_comes_back_and_down_leaves_nothing(machine: Machine) -> None:
    machine.procfile.write_text(WEB + IDLE)
    first = machine.qcrd("up", "--detach")
    assert first.returncode == 0, first.stdout
    before = machine.pids()
    os.kill(before["idle"], signal.SIGKILL)
    until(lambda: machine.pids()["idle"] not in (0, before["idle"]))
    assert machine.pids()["web"] == before["web"]

    second = machine.qcrd("up")
    assert second.returncode == 0
    assert "already running: http://127.0.0.1:" in second.stdout
    until(lambda: machine.qcrd("status").returncode == 0)

    assert machine.qcrd("down").returncode == 0
    assert machine.processes() == []
    assert "nothing is running" in machine.qcrd("down").stdout
    assert machine.qcrd("status").returncode == 1


def test_a_killed_supervisor_leaves_no_process_and_the_next_up_starts_afresh(
    machine: Machine,
) -> None:
    machine.procfile.write_text(WEB + DEAF)
    assert machine.qcrd("up", "-d").returncode == 0
    killed = machine.supervisor()
    os.kill(killed, signal.SIGKILL)
    until(lambda: machine.processes() == [])
    again = machine.qcrd("up", "-d")
    assert again.returncode == 0, again.stdout
    assert f"process {killed}) did not shut down" in again.stdout


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_in_the_foreground_every_end_of_up_ends_the_parts(
    machine: Machine, signum: signal.Signals
) -> None:
    """Even a part that ignores SIGTERM, and even when `up` itself gets no say."""
    machine.procfile.write_text(WEB + DEAF)
    process = machine.up_in_foreground()
    until(lambda: "running: " in machine.foreground_log.read_text())
    process.send_signal(signum)
    until(lambda: machine.processes() == [])
    code = process.wait(60)
    assert code == (-9 if signum is signal.SIGKILL else 0)


def test_a_port_that_is_taken_is_named(machine: Machine) -> None:
    machine.procfile.write_text(WEB)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = machine.qcrd("up", "--detach", "--port", str(port))
    assert result.returncode == 2
    assert f"error: --port: port {port} of 127.0.0.1 is in use" in result.stdout
    assert machine.processes() == []


def test_a_part_that_does_not_start_is_shown_with_its_log_and_takes_the_rest_along(
    machine: Machine,
) -> None:
    machine.procfile.write_text(IDLE + BROKEN)
    result = machine.qcrd("up", "--detach")
    assert result.returncode == 1
    assert "broken ended 3 times" in result.stdout
    assert "no such luck" in result.stdout
    assert machine.processes() == []


def test_objects_outlive_the_stack_and_a_change_of_every_port(machine: Machine) -> None:
    """On the Procfile's own servers: jobs and files are there after a restart."""
    lines = Path(stack.__file__).with_name("Procfile").read_text().splitlines(keepends=True)
    servers = [line for line in lines if line.startswith(("valkey:", "seaweedfs:"))]
    machine.procfile.write_text("".join(servers) + WEB)
    assert machine.qcrd("up", "-d").returncode == 0
    _store(machine).put_object("qcrd", "kept", io.BytesIO(b"for long"), 8)
    before = machine.home.read_record()
    assert machine.qcrd("down").returncode == 0
    (machine.home.data / "ports.json").unlink()
    assert machine.qcrd("up", "-d").returncode == 0
    after = machine.home.read_record()
    assert before is not None
    assert after is not None
    assert before.ports["s3"] != after.ports["s3"]
    assert _store(machine).get_object("qcrd", "kept").read() == b"for long"
    listening = {
        connection.laddr.ip
        for process in machine.processes()
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    assert_strangers_are_refused(after.ports)
    with urlopen(after.api_url, timeout=60) as answer:
        assert answer.status == 200


def assert_strangers_are_refused(ports: dict[str, int]) -> None:
    """Any user of the machine can connect to a loopback port."""
    with pytest.raises(AuthenticationError):
        Redis(port=ports["redis"]).ping()
    for path in ("buckets/qcrd/kept", "buckets/qcrd/?limit=10"):
        with pytest.raises(HTTPError) as refused:
            urlopen(f"http://127.0.0.1:{ports['weed_filer']}/{path}", timeout=5)
        assert refused.value.code == 401


def _store(machine: Machine) -> Minio:
    record = machine.home.read_record()
    assert record is not None
    keys = json.loads((machine.home.data / "store-keys.json").read_text())
    address = f"127.0.0.1:{record.ports['s3']}"
    return Minio(
        address, access_key=keys["access_key"], secret_key=keys["secret_key"], secure=False
    )
