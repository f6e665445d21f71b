"""A process whose environment is wrong ends at once, and says why without telling a secret."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CELERY = ("celery", "-A")
WORK = ("worker", "-c", "1", "--pool=threads", "-Q")
GATEWAY = ("services.api.main",)
ASSEMBLER = (*CELERY, "services.api.worker", *WORK, "assemble")
TRAINER = (*CELERY, "services.trainer.worker", *WORK, "train")
DISCRIMINATOR = ("services.discriminator.main",)
TEACHER = ("services.teacher.main",)
STUDENTS = ("services.teacher.students",)
SECRET = "sk-not-to-be-told"


STARTER = """
import json, os, runpy, sys
import celery.bin.celery, services.api.app, services.api.assembling.stage, uvicorn
import services.discriminator.registry, services.teacher.app, qcrd.runtime.jobs.celery_worker

for line in sys.stdin:
    module, arguments, environment, *outputs = json.loads(line)
    if child := os.fork():
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit(0)
"""
"""Starts a module as `python -m` does, with most of what it needs imported already, without the
environment that the module gets: what read it when it is imported would not say what is wrong."""


@pytest.fixture(scope="module")
def starter() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", STARTER]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        yield process


@pytest.mark.parametrize(
    ("process", "name", "value", "said"),
    [
        (GATEWAY, "QCRD_TEACHERS", "{", "QCRD_TEACHERS: Input should be valid JSON"),
        (GATEWAY, "QCRD_S3_SECURE", "perhaps", "QCRD_S3_SECURE: Input should be a valid boolean"),
        (GATEWAY, "QCRD_REDIS_URL", SECRET, "QCRD_REDIS_URL: Input should be redis://HOST"),
        (GATEWAY, "QCRD_REDIS_URL", f"redis://:{SECRET}@h:x/0", "QCRD_REDIS_URL: Input should be"),
        (GATEWAY, "QCRD_LOG_LEVEL", "loud", "QCRD_LOG_LEVEL: Input should be 'DEBUG'"),
        (ASSEMBLER, "QCRD_REDIS_URL", SECRET, "QCRD_REDIS_URL: Input should be redis://HOST"),
        (ASSEMBLER, "QCRD_TEACHERS", "{", "QCRD_TEACHERS: Input should be valid JSON"),
        (ASSEMBLER, "QCRD_TEACHERS", f'{{"a": {{"url": "{SECRET}"}}}}', "QCRD_TEACHERS.a.url: "),
        (ASSEMBLER, "QCRD_WEBHOOK_SECRET", SECRET, "QCRD_WEBHOOK_SECRET: it must be whsec_"),
        (ASSEMBLER, "QCRD_LOG_LEVEL", "loud", "QCRD_LOG_LEVEL: Input should be 'DEBUG'"),
        (TRAINER, "QCRD_PROCESSES", "none", "QCRD_PROCESSES: Input should be a valid integer"),
        (TRAINER, "QCRD_HEARTBEAT_SECONDS", "40", "QCRD_LEASE_SECONDS is 45"),
        (TRAINER, "QCRD_DISCRIMINATOR_URL", SECRET, "QCRD_DISCRIMINATOR_URL: String should match"),
        (STUDENTS, "QCRD_DISCRIMINATOR_URL", SECRET, "QCRD_DISCRIMINATOR_URL: String should match"),
        (DISCRIMINATOR, "QCRD_DISCRIMINATOR_PORT", SECRET, "QCRD_DISCRIMINATOR_PORT: Input should"),
        (DISCRIMINATOR, "QCRD_DEVICE", SECRET, "QCRD_DEVICE: Input should be 'auto'"),
        (DISCRIMINATOR, "QCRD_DEVICE", "cuda", "QCRD_DEVICE: it is cuda, and this process sees no"),
        (TEACHER, "PORT", SECRET, "PORT: Input should be a valid integer"),
        (
            TEACHER,
            "TEACHER_SLOTS",
            "0",
            "TEACHER_SLOTS: Input should be greater than or equal to 1",
        ),
        (STUDENTS, "QCRD_STUDENTS_PORT", SECRET, "QCRD_STUDENTS_PORT: Input should be a valid"),
    ],
)
def test_it_ends_and_says_what_is_wrong(
    process: tuple[str, ...],
    name: str,
    value: str,
    said: str,
    starter: subprocess.Popen[str],
    tmp_path: Path,
) -> None:
    # Nothing answers there: whoever went on would wait for it.
    nowhere = {"QCRD_REDIS_URL": "redis://127.0.0.1:1/0", "QCRD_API_PORT": "0"}
    module, *arguments = process
    outputs = [tmp_path / "stdout", tmp_path / "stderr"]
    assert starter.stdin is not None
    assert starter.stdout is not None
    order = [module, arguments, {**nowhere, name: value}, *map(str, outputs)]
    print(json.dumps(order), file=starter.stdin, flush=True)
    assert int(starter.stdout.readline()) == 1
    out, error = (path.read_text() for path in outputs)
    (line,) = [line for line in error.splitlines() if "invalid environment: " in line]
    assert line.startswith(f"invalid environment: {said}")
    assert "Traceback" not in error
    assert SECRET not in out + error
