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
SECRET = "sk-not-to-be-told"


@pytest.mark.parametrize(
    ("process", "name", "value", "said"),
    [
        (GATEWAY, "QCRD_TEACHERS", "{", 'field "teachers"'),
        (GATEWAY, "QCRD_S3_SECURE", "perhaps", "StoreSettings: secure"),
        (ASSEMBLER, "QCRD_TEACHERS", "{", 'field "teachers"'),
        (ASSEMBLER, "QCRD_TEACHERS", f'{{"a": {{"url": "{SECRET}"}}}}', "teachers.a.url"),
        (ASSEMBLER, "QCRD_WEBHOOK_SECRET", SECRET, "WebhookSettings: secret"),
        (ASSEMBLER, "QCRD_LOG_LEVEL", "loud", "LogSettings: level"),
        (TRAINER, "QCRD_PROCESSES", "none", "TrainerSettings: processes"),
        (TRAINER, "QCRD_HEARTBEAT_SECONDS", "40", "QCRD_LEASE_SECONDS is 45"),
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
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "the environment is wrong: " in ended.stderr
    assert said in ended.stderr
    assert SECRET not in ended.stdout + ended.stderr
