"""A process whose environment is wrong ends at once, and says why without telling a secret."""

from __future__ import annotations

import os
import subprocess
import sys

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
    process: tuple[str, ...], name: str, value: str, said: str
) -> None:
    # Nothing answers there: whoever went on would wait for it.
    nowhere = {"QCRD_REDIS_URL": "redis://127.0.0.1:1/0", "QCRD_API_PORT": "0"}
    ended = subprocess.run(
        [sys.executable, "-m", *process],
        env={**os.environ, **nowhere, name: value},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.returncode == 1
    (line,) = [line for line in ended.stderr.splitlines() if "invalid environment: " in line]
    assert line.startswith(f"invalid environment: {said}")
    assert "Traceback" not in ended.stderr
    assert SECRET not in ended.stdout + ended.stderr
