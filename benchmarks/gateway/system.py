"""What the gateway's benchmark loads: Valkey, SeaweedFS and gateways, by the commands of `qcrd up`.

So Valkey runs with `appendfsync always`. Nobody takes the jobs: the gateway is what is measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2
from pydantic import SecretStr
from redis import Redis

from qcrd.cli.stack import environment, procfile
from qcrd.cli.stack.home import Home
from qcrd.cli.stack.ports import PARTS, choose
from qcrd.errors import Transient
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.settings import RedisSettings, StoreSettings
from qcrd.runtime.storage.s3 import S3Store

BASE = "base"
"""The model that jobs name: a configuration without weights, for nobody trains."""
CONFIG = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}
START_SECONDS = 60.0


@dataclass(frozen=True)
class Gateway:
    url: str
    pid: int


class System:
    def __init__(self, home: Home, settings: dict[str, str]) -> None:
        self._home = home
        self._settings = settings
        self._commands = procfile.read(procfile.bundled())
        self.store_settings = StoreSettings(
            endpoint=settings["QCRD_S3_ENDPOINT"],
            access_key=settings["QCRD_S3_ACCESS_KEY"],
            secret_key=SecretStr(settings["QCRD_S3_SECRET_KEY"]),
            bucket=settings["QCRD_S3_BUCKET"],
        )
        self.store = S3Store(self.store_settings)
        self.redis: Redis = connect_redis(RedisSettings(url=settings["QCRD_REDIS_URL"]))

    @contextmanager
    def part(
        self, name: str, ready: Callable[[], bool], **more: str
    ) -> Iterator[subprocess.Popen[bytes]]:
        """One process of the Procfile, stopped afterwards."""
        settings = {**self._settings, **more}
        with self._home.log(name).open("ab") as log:
            process = subprocess.Popen(
                procfile.argv(self._commands[name], settings), env=settings, stdout=log, stderr=log
            )
        try:
            _wait(ready, process, name, self._home.log(name))
            yield process
        finally:
            process.terminate()
            process.wait(30)

    @contextmanager
    def gateway(self) -> Iterator[Gateway]:
        """A new one, with nothing in its memory yet."""
        (port,) = choose(["more"], preferred={}, api=None).values()
        url = f"http://127.0.0.1:{port}"
        more = {"QCRD_API_PORT": str(port), "QCRD_API_KEYS": "", "QCRD_API_KEYS_FILE": ""}
        with self.part("api", lambda: _answers(f"{url}/ready"), **more) as process:
            yield Gateway(url, process.pid)

    def stored(self) -> bool:
        try:
            self.store.put("ready", b"")
        except Transient:
            return False
        return True

    def remembers(self) -> bool:
        with suppress(OSError, Transient):
            return bool(self.redis.ping())
        return False


@contextmanager
def running(folder: Path) -> Iterator[System]:
    """The servers, with their data in `folder`."""
    home = Home(folder)
    home.prepare()
    base = home.models / BASE
    base.mkdir(parents=True)
    (base / "config.json").write_text(json.dumps(CONFIG))
    ports = choose(PARTS, preferred={}, api=None)
    settings = environment.build(home, ports, procfile.bundled(), os.environ)
    system = System(home, settings)
    with system.part("valkey", system.remembers), system.part("seaweedfs", system.stored):
        yield system


def _wait(
    ready: Callable[[], bool], process: subprocess.Popen[bytes], name: str, log: Path
) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{name} did not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.1)


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url, trust_env=False).is_success
    except httpx2.TransportError:
        return False
