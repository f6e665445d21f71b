"""`qcrd.Client` against the gateway's own app over a real socket."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import qcrd
from qcrd.client.gateway import Intervals
from qcrd.errors import Conflict, Invalid, NotFound, Transient, Unauthorized
from qcrd.records.job import JobStatus
from qcrd.records.rationales import Prediction
from qcrd.runtime import keys
from qcrd.runtime.storage.json_lines import write_lines
from tests import serving
from tests.unit.api.gateway_client import Here, lines, published, sums
from tests.unit.trainer.test_report import made

SHORT = Intervals(poll_job=0.02, reconnect=0.01, create_retries=(0.0,))
METHOD = {"type": "qcrd", "qcrd": {"task": {"answer": "number"}}}


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path / "models", keys=("secret",))


@pytest.fixture
def url(here: Here) -> Iterator[str]:
    with serving.app(here.app) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[qcrd.Client]:
    with qcrd.Client(url, "secret", intervals=SHORT) as client:
        yield client


@pytest.fixture
def train(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_bytes(lines(sums(20)))
    return path


def test_a_job_is_created_of_files_followed_and_waited_for(
    client: qcrd.Client, here: Here, train: Path, tmp_path: Path
) -> None:
    test = tmp_path / "test.jsonl"
    test.write_bytes(lines(sums(5, start=50)))
    job = client.create_job(
        {"model": "tiny", "training_file": train, "test_file": test, "method": METHOD}
    )
    assert (job.training_file, job.test_file) == (client.upload(train).id, client.upload(test).id)
    assert [each.id for each in client.list_jobs()] == [job.id]
    assert client.get_job(job.id).model == "tiny"
    assert client.estimate({"model": "tiny", "training_file": job.training_file, "method": METHOD})[
        "teacher"
    ]["outputs"]
    events: list[str] = []

    def follow() -> None:
        events.extend(event.message for event in client.follow(job.id))

    follower = threading.Thread(target=follow)
    follower.start()
    assert client.cancel_job(job.id).status == "cancelled"
    assert client.wait(job.id).status == "cancelled"
    follower.join(60)
    assert not follower.is_alive()
    assert events == [event.message for event in here.events.read(job.id, None, 100)]
    assert len(events) > 1
    with pytest.raises(Conflict, match="has no report, it is cancelled"):
        client.get_report(job.id)


def test_a_finished_job_gives_its_report_and_every_prediction(
    client: qcrd.Client, here: Here, train: Path
) -> None:
    """More predictions than a page has."""
    job = client.create_job({"model": "tiny", "training_file": train, "method": METHOD})
    done = {"report": made(), "status": JobStatus.SUCCEEDED, "concluded": True}
    here.jobs.update(job.id, lambda job: job.model_copy(update=done))
    write_lines(
        here.store,
        keys.job_predictions_key(job.id),
        [
            Prediction(
                question_id=f"q{n}", text="3", answer="3", gold=str(3 + n % 2), right=n % 2 == 0
            )
            for n in range(1205)
        ],
    )
    assert client.get_report(job.id) == made()
    assert client.wait(job.id).report == made()
    assert [one.question_id for one in client.list_predictions(job.id)] == [
        f"q{n}" for n in range(1205)
    ]
    assert len(client.list_predictions(job.id, right=False)) == 602
    assert len(client.list_predictions(job.id, label="4", limit=5)) == 5


def test_errors_are_those_of_the_gateway(
    client: qcrd.Client, url: str, train: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"question": "What is 1 + 1?"\n')
    with pytest.raises(Invalid, match="line 1"):
        client.upload(wrong)
    with pytest.raises(Invalid, match="there is no file"):
        client.upload(tmp_path / "none.jsonl")
    with pytest.raises(Invalid) as refused:
        client.create_job({"model": "tiny", "training_file": train, "method": METHOD, "sead": 1})
    assert refused.value.param == "sead"
    with pytest.raises(NotFound):
        client.get_job("ftjob-0123456789abcdef01234567")
    with qcrd.Client(url, "wrong") as stranger, pytest.raises(Unauthorized, match="QCRD_API_KEY"):
        stranger.list_jobs()
    with pytest.raises(Invalid, match="http://"):
        qcrd.Client("localhost:8000")


def test_the_address_and_the_key_come_from_the_environment(
    url: str, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = published(here.store)
    monkeypatch.setenv("QCRD_API_URL", url)
    monkeypatch.setenv("QCRD_API_KEY", "secret")
    with qcrd.Client() as client:
        assert [each.id for each in client.list_models()] == [model.id]
    monkeypatch.setenv("QCRD_API_URL", "http://127.0.0.1:9")
    with qcrd.Client() as client, pytest.raises(Transient, match="nothing answers"):
        client.list_models()


def test_the_package_has_nothing_else_of_that_kind() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Cleint'"):
        qcrd.Cleint  # noqa: B018
