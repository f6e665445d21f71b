"""This release and a later minor one on one Redis and one store: whole jobs that pass through both.

The later one is a copy of this one with a field more in every record, the next schema version, and
an event type that this one does not know.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from qcrd.records.job import JobStatus
from tests.survival.stack.processes import ROOT, Part
from tests.survival.stack.runs import Calm, Data, Run, begin
from tests.survival.stack.system import System, commands, environment

CHANGES = {
    "qcrd/records/base.py": (
        ('SCHEMA_VERSION = "1.0"', 'SCHEMA_VERSION = "1.1"'),
        ("class StoredRecord(Record):", "class _Unused(Record):"),
        (
            "RecordT = TypeVar(",
            'class StoredRecord(_Unused):\n    of_tomorrow: dict[str, int] = {"kept": 1}\n\n\n'
            "RecordT = TypeVar(",
        ),
    ),
    "qcrd/records/specs/spec.py": (
        (
            "class JobSpec(Record):",
            'class _OfTomorrow(Record):\n    of_tomorrow: str = "kept"\n\n\n'
            "class JobSpec(_OfTomorrow):",
        ),
    ),
    "qcrd/runtime/redis/event_log.py": (
        (
            '"type": type, "data": data or {}}\n        name',
            '"type": f"{type}_of_tomorrow", "data": data or {}}\n        name',
        ),
    ),
}


@pytest.fixture(scope="module")
def tomorrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the later release's packages."""
    folder = tmp_path_factory.mktemp("tomorrow")
    for package in ("qcrd", "services", "tests"):
        shutil.copytree(ROOT / package, folder / package)
    for name, changes in CHANGES.items():
        text = (folder / name).read_text()
        for old, new in changes:
            assert old in text, f"{name} has no {old!r}"
            text = text.replace(old, new)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def swapped(system: System, tomorrow: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """The part `request.param` is the later release's, until the test ends."""
    name: str = request.param
    ours = system.parts[name]
    theirs = Part(
        name,
        commands(system)[name],
        {**environment(system, name), "PYTHONPATH": str(tomorrow)},
        system.folder,
        code=tomorrow,
    )
    ours.stop()
    theirs.start()
    system.parts[name] = theirs
    yield name
    theirs.stop()
    system.parts[name] = ours
    ours.start()


@pytest.mark.parametrize("swapped", ["assembler", "trainer"], indirect=True)
def test_a_job_passes_through_both(
    swapped: str, system: System, data: Data, calm: Calm, rng: random.Random
) -> None:
    run = begin(system, data, rng)
    job = run.ended()
    assert run.follower.over, "the stream did not come to its last event"
    assert job.status is JobStatus.SUCCEEDED, f"{job.failure}\n{system.tails()}"
    labels = [(one.question_id, one.answer) for one in system.predictions(run.id)]
    assert labels == [(one.question_id, one.answer) for one in calm.predictions]
    events = system.all_events(run.id)
    assert {event.type for event in events} >= {"message", "message_of_tomorrow"}
    check_lists(run)


def check_lists(run: Run) -> None:
    """Every list of our gateway is there, with what the other release left in it."""
    url = run.system.url()
    for path in ("fine_tuning/jobs", "models", "files", "rationale_sets", "discriminators"):
        answer = httpx2.get(f"{url}/v1/{path}", timeout=60)
        assert answer.status_code == 200, answer.text
    shown = httpx2.get(f"{url}/v1/fine_tuning/jobs/{run.id}", timeout=60).json()
    events = httpx2.get(f"{url}/v1/fine_tuning/jobs/{run.id}/events?limit=100", timeout=60)
    assert "message_of_tomorrow" in {event["type"] for event in events.json()["data"]}
    assert shown["status"] == "succeeded"
    assert "unreadable" not in httpx2.get(f"{url}/ready", timeout=60).json()
    log = run.system.parts["gateway"].log.read_text(errors="replace")
    assert "cannot be read" not in log
