from __future__ import annotations

import io
import threading
import tracemalloc
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, cast

import pytest
from minio import Minio
from minio.credentials.providers import Provider

from qcrd.errors import NotFound, QcrdError, Transient
from qcrd.records.rationales import Question
from qcrd.runtime.settings import StoreSettings
from qcrd.runtime.storage.credentials import STORE_REFUSES
from qcrd.runtime.storage.json_lines import read_lines, read_lines_at, write_lines
from qcrd.runtime.storage.s3 import PART_BYTES, S3Store, make_client
from qcrd.runtime.storage.store import Store, read_object, read_record, write_record

QUESTIONS = [Question(id=f"q-{n}", text=f"Wie viel ist {n} + ½?", label=str(n)) for n in range(500)]


class Unseekable(io.RawIOBase):
    """A body of unknown length, like an upload that is still arriving."""

    def __init__(self, size: int) -> None:
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = min(len(buffer), self._left, 65536)
        buffer[:count] = b"x" * count
        self._left -= count
        return count


def test_an_object_is_read_back_and_replaced(store: Store) -> None:
    for body in (b"first", b"", bytes(range(256)) * 100):
        store.put("files/a/data", body)
        assert read_object(store, "files/a/data") == body


@pytest.mark.parametrize("size", [0, 1000, 20 * 2**20])
def test_a_stream_of_unknown_length_is_stored_to_its_end(store: Store, size: int) -> None:
    store.put("files/a/data", cast(BinaryIO, io.BufferedReader(Unseekable(size))))
    with store.open("files/a/data") as body:
        total = 0
        while block := body.read(2**20):
            total += len(block)
    assert total == size


def test_a_stream_of_known_length(store: Store) -> None:
    store.put("a", io.BytesIO(b"0123456789"), length=10)
    assert read_object(store, "a") == b"0123456789"


def test_a_large_object_goes_up_in_parts_of_which_few_are_in_memory(
    s3_settings: StoreSettings,
) -> None:
    store, size = S3Store(s3_settings), 30 * PART_BYTES
    store.put("small", b"x")  # what is made once
    tracemalloc.start()
    try:
        store.put("large", cast(BinaryIO, io.BufferedReader(Unseekable(size))), length=size)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * 4 * PART_BYTES, "three parts at once, of each the client's four copies"
    with store.open("large") as body:
        assert sum(len(block) for block in iter(lambda: body.read(2**20), b"")) == size


def test_an_object_can_be_left_half_read(store: Store) -> None:
    store.put("a", b"line one\nline two\n" * 100_000)
    for _ in range(20):  # more often than the pool has connections
        with store.open("a") as body:
            assert body.readline() == b"line one\n"


def test_a_missing_object_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound), store.open("files/none/data"):
        pass


def test_keys_are_listed_by_prefix_in_order(store: Store) -> None:
    for key in ("a/b/2", "a/b/10", "a/c", "ab", "b/a"):
        store.put(key, b"x")
    assert store.list("a/") == ["a/b/10", "a/b/2", "a/c"]
    assert store.list("a/b/") == ["a/b/10", "a/b/2"]
    assert store.list("a") == ["a/b/10", "a/b/2", "a/c", "ab"]
    assert store.list("none/") == []


def test_deleting_is_idempotent(store: Store) -> None:
    store.put("a/b", b"x")
    store.delete("a/b")
    store.delete("a/b")
    assert store.list("") == []


def test_a_link_reads_without_other_credentials(store: Store) -> None:
    store.put("models/a b/ü.txt", b"weights")
    with urllib.request.urlopen(store.presign_url("models/a b/ü.txt", seconds=60)) as answer:
        assert answer.read() == b"weights"


def test_records_and_lines_survive_the_way(store: Store) -> None:
    write_record(store, "one.json", QUESTIONS[0])
    assert read_record(store, "one.json", Question) == QUESTIONS[0]
    for key in ("lines.jsonl", "lines.jsonl.zst"):
        write_lines(store, key, QUESTIONS)
        assert list(read_lines(store, key, Question)) == QUESTIONS
    assert len(read_object(store, "lines.jsonl.zst")) < len(read_object(store, "lines.jsonl")) / 5
    write_lines(store, "none.jsonl.zst", [])
    assert list(read_lines(store, "none.jsonl.zst", Question)) == []


def test_lines_that_fail_half_way_leave_no_object(store: Store) -> None:
    def broken() -> object:
        yield QUESTIONS[0]
        raise RuntimeError("the disk burned")

    with pytest.raises(RuntimeError):
        write_lines(store, "lines.jsonl.zst", broken())  # type: ignore[arg-type]
    assert store.list("") == []


def test_a_wrong_record_says_where(store: Store) -> None:
    store.put("lines.jsonl", b'{"id":"a","text":"b"}\n{"id":"a"}\n')
    with pytest.raises(QcrdError, match=r"lines\.jsonl, line 2 cannot be read as Question"):
        list(read_lines(store, "lines.jsonl", Question))


def test_a_store_that_is_away_is_transient() -> None:
    store = S3Store(StoreSettings(endpoint="127.0.0.1:9", access_key="a", secret_key="b"))
    with pytest.raises(Transient):
        store.put("a", b"x")
    with pytest.raises(Transient):
        read_object(store, "a")


def test_nobody_waits_for_another_one_s_answer_about_the_bucket(s3_settings: StoreSettings) -> None:
    """Two meet in the question itself, and both make the bucket that is not there."""
    meeting = threading.Barrier(2)

    def connect(settings: StoreSettings, endpoint: str, credentials: Provider) -> Minio:
        client = make_client(settings, endpoint, credentials)
        asked = client.bucket_exists

        def ask(bucket: str) -> bool:
            there = asked(bucket)
            meeting.wait(60)
            return there

        client.bucket_exists = ask
        return client

    settings = s3_settings.model_copy(update={"bucket": "test-asked-at-once"})
    store = S3Store(settings, connect=connect)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda key: store.put(key, b"x"), "ab"))
    assert store.list("") == ["a", "b"]
    for key in "ab":
        store.delete(key)


def test_wrong_credentials_are_waited_for_and_named(s3_settings: StoreSettings) -> None:
    store = S3Store(s3_settings.model_copy(update={"access_key": "unknown"}))
    with pytest.raises(Transient, match=r"refuses.*QCRD_S3_ACCESS_KEY") as raised:
        store.put("a", b"x")
    assert raised.value.code == STORE_REFUSES


def test_a_bucket_that_is_gone_is_waited_for_and_not_made_again(
    fresh_s3_settings: StoreSettings,
) -> None:
    """Made again and empty, every file of every job would be missing."""
    store = S3Store(fresh_s3_settings)
    store.put("a", b"x")
    operator = Minio(
        fresh_s3_settings.endpoint,
        access_key=fresh_s3_settings.access_key,
        secret_key=fresh_s3_settings.secret_key.get_secret_value(),
        secure=False,
    )
    store.delete("a")
    operator.remove_bucket(fresh_s3_settings.bucket)
    # No write: SeaweedFS makes a bucket for it, which S3 and MinIO do not.
    for call in (lambda: store.list(""), lambda: read_object(store, "a")):
        with pytest.raises(Transient, match="restore the bucket test-") as raised:
            call()
        assert raised.value.code == STORE_REFUSES
    operator.make_bucket(fresh_s3_settings.bucket)
    store.put("a", b"x")
    assert read_object(store, "a") == b"x"


def test_links_name_the_public_endpoint(s3_settings: StoreSettings) -> None:
    public = s3_settings.model_copy(update={"public_endpoint": "files.example.org:443"})
    assert (
        S3Store(public)
        .presign_url("a", seconds=60)
        .startswith("http://files.example.org:443/qcrd/a?")
    )


@pytest.mark.parametrize("key", ["some.jsonl", "some.jsonl.zst"])
@pytest.mark.parametrize("numbers", [[], [0], [3, 4, 499], [499], [498, 600]])
def test_some_lines_are_read_without_the_others(store: Store, key: str, numbers: list[int]) -> None:
    write_lines(store, key, QUESTIONS)
    found = list(read_lines_at(store, key, Question, numbers))
    assert found == [(number, QUESTIONS[number]) for number in numbers if number < 500]
    # A broken line that is not asked for is nobody's concern.
    store.put("broken.jsonl", b"{\n" + QUESTIONS[1].model_dump_json().encode() + b"\n")
    assert list(read_lines_at(store, "broken.jsonl", Question, [1])) == [(1, QUESTIONS[1])]
