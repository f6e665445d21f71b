"""The system under load: Valkey, SeaweedFS and gateways, started by the commands of `qcrd up`.

So Valkey runs with `appendfsync always`. There are no workers, as only the gateway is measured.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2
from pydantic import SecretStr
from redis import Redis
from redis.exceptions import RedisError

from qcrd.cli.stack import environment, procfile
from qcrd.cli.stack.home import StackHome
from qcrd.cli.stack.ports import PORT_NAMES, choose_ports
from qcrd.errors import Transient
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.settings import RedisSettings, StoreSettings
from qcrd.runtime.storage.s3 import S3Store

BASE_MODEL = "base"
"""The jobs' model: a configuration without weights, as no job is trained."""
BASE_MODEL_CONFIG = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}
START_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class GatewayProcess:
    url: str
    pid: int


class BenchmarkSystem:
    def __init__(self, home: StackHome, settings: dict[str, str]) -> None:
        self._home = home
        self.settings = settings
        self._commands = procfile.read_procfile(procfile.get_bundled_path())
        self.store_settings = StoreSettings(
            endpoint=settings["QCRD_S3_ENDPOINT"],
            access_key=settings["QCRD_S3_ACCESS_KEY"],
            secret_key=SecretStr(settings["QCRD_S3_SECRET_KEY"]),
            bucket=settings["QCRD_S3_BUCKET"],
        )
        self.store = S3Store(self.store_settings)
        self.redis: Redis = connect_redis(RedisSettings(url=settings["QCRD_REDIS_URL"]))

    @contextmanager
    def run_process(
        self, name: str, ready: Callable[[], bool], **overrides: str
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run one process of the Procfile, stopped afterwards."""
        settings = {**self.settings, **overrides}
        with self._home.log_path(name).open("ab") as log:
            process = subprocess.Popen(
                procfile.build_argv(self._commands[name], settings),
                env=settings,
                stdout=log,
                stderr=log,
            )
        try:
            _wait_until_ready(ready, process, name, self._home.log_path(name))
            yield process
        finally:
            process.terminate()
            process.wait(30)

    @contextmanager
    def run_gateway(self) -> Iterator[GatewayProcess]:
        """Start a new gateway process."""
        (port,) = choose_ports(["more"], preferred={}).values()
        url = f"http://127.0.0.1:{port}"
        overrides = {"QCRD_API_PORT": str(port), "QCRD_API_KEYS": "", "QCRD_API_KEYS_FILE": ""}
        with self.run_process("api", lambda: _is_http_ok(f"{url}/ready"), **overrides) as process:
            yield GatewayProcess(url, process.pid)

    def is_store_ready(self) -> bool:
        try:
            self.store.put("ready", b"")
        except Transient:
            return False
        return True

    def is_redis_ready(self) -> bool:
        with suppress(RedisError):
            return bool(self.redis.ping())
        return False


@contextmanager
def run_system(folder: Path) -> Iterator[BenchmarkSystem]:
    """Start the servers, with their data in `folder`."""
    home = StackHome(folder)
    home.create_folders()
    home.write_valkey_config()
    base = home.models / BASE_MODEL
    base.mkdir(parents=True)
    (base / "config.json").write_text(json.dumps(BASE_MODEL_CONFIG))
    # Weights without a tensor: a header's length, and the header.
    (base / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    ports = choose_ports(PORT_NAMES, preferred={})
    settings = environment.build_environment(home, ports, procfile.get_bundled_path(), os.environ)
    system = BenchmarkSystem(home, settings)
    with (
        system.run_process("valkey", system.is_redis_ready),
        system.run_process("seaweedfs", system.is_store_ready),
    ):
        yield system


def _wait_until_ready(
    ready: Callable[[], bool], process: subprocess.Popen[bytes], name: str, log: Path
) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{name} did not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.1)


def _is_http_ok(url: str) -> bool:
    try:
        return httpx2.get(url, trust_env=False).is_success
    except httpx2.TransportError:
        return False
