"""Where files are, what they cost to list, and how often they are read."""

from __future__ import annotations

import io
import json
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from qcrd.errors import Invalid, NotFound
from qcrd.method.answers import question_id
from qcrd.questions.duplicates import DuplicateIndex
from qcrd.questions.rows import RowReader, read_rows
from qcrd.records.job import StoredFile
from qcrd.runtime import keys
from qcrd.runtime.storage.store import MemoryStore, write_record
from services.api.files import service as files
from services.api.jobs.checks.validation_cache import ValidationCache
from tests.unit.api import gateway_client as rest
from tests.unit.api.gateway_client import Here, refused, sums


class CountingStore(MemoryStore):
    """Remembers which objects were opened."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []

    def open(self, key: str) -> Any:
        self.opened.append(key)
        return super().open(key)


@pytest.fixture
def here(tmp_path: Path) -> Here:
    made = Here(tmp_path / "models")
    return made


def kept(store: MemoryStore, start: int, count: int = 2) -> StoredFile:
    blob = files.write_blob(store, [rest.lines(sums(count, start))], limit=1 << 20)
    return files.publish_file(store, blob, filename="f")


def old(store: MemoryStore, start: int, created_at: float) -> StoredFile:
    """As they were stored before uploads were streamed: no blob, and no time in a key."""
    data = rest.lines(sums(2, start))
    stored = StoredFile(
        id=f"file-{start:024d}",
        filename="f",
        purpose="fine-tune",
        bytes=len(data),
        created_at=created_at,
        sha256="0" * 64,
        lines=2,
    )
    store.put(keys.file_key(stored.id), data)
    write_record(store, keys.file_meta_key(stored.id), stored)
    return stored


def test_a_page_reads_only_its_own_descriptions() -> None:
    store = CountingStore()
    made = []
    for number in range(5):
        made.append(kept(store, 10 * number).id)
        time.sleep(0.002)
    store.opened.clear()
    found, more = files.list_files(store, after=made[3], limit=2, order="desc")
    assert ([one.id for one in found], more) == ([made[2], made[1]], True)
    assert store.opened == [keys.file_meta_key(made[2]), keys.file_meta_key(made[1])]
    found, more = files.list_files(store, after=made[3], limit=2, order="asc")
    assert ([one.id for one in found], more) == ([made[4]], False)
    with pytest.raises(Invalid, match="`after`: there is no file"):
        files.list_files(store, after="file-x", limit=2, order="asc")


def test_old_files_are_listed_read_and_deleted_among_new_ones(here: Here) -> None:
    first, last = old(here.store, 50, 5.0), old(here.store, 60, 2e10)
    between = kept(here.store, 0)
    listed = here.client.get("/v1/files?order=asc").json()["data"]
    assert [one["id"] for one in listed] == [first.id, between.id, last.id]
    assert [row.question.text for row in files.iter_rows(here.store, first.id)] == [
        "What is 50 + 1?",
        "What is 51 + 1?",
    ]
    content = here.client.get(f"/v1/files/{first.id}/content")
    assert content.content == rest.lines(sums(2, 50))
    assert "blob" not in listed[0]
    for one in (first, between, last):
        assert here.client.delete(f"/v1/files/{one.id}").status_code == 200
    assert here.store.list("") == []


def test_a_second_upload_of_a_file_leaves_no_second_blob(here: Here) -> None:
    first = kept(here.store, 0)
    assert kept(here.store, 0) == first
    assert here.store.list(keys.UPLOADS) == [first.blob]


def test_a_purpose_that_no_file_has_lists_none(here: Here) -> None:
    kept(here.store, 0)
    assert here.client.get("/v1/files?purpose=batch").json()["data"] == []
    assert len(here.client.get("/v1/files?purpose=fine-tune").json()["data"]) == 1


# --- checking ----------------------------------------------------------------------------------


def test_a_thousand_jobs_on_a_file_read_it_once(tmp_path: Path) -> None:
    here = Here(tmp_path / "models")
    training, test = here.file(sums(8)), here.file(sums(3, 50))
    blobs = []
    opened = here.store.open

    def counting(key: str) -> Any:
        blobs.append(key)
        return opened(key)

    here.store.open = counting  # type: ignore[method-assign]
    for _ in range(5):
        assert here.create(training, test_file=test).status_code == 200
    assert len([key for key in blobs if key.startswith(keys.UPLOADS)]) == 2
    # Another task is another question.
    labels = {"task": {"answer": "label", "labels": ["yes", "no"]}}
    for _ in range(2):
        refused(here.create(training, labels), 400, "invalid_label", "training_file")
    assert len([key for key in blobs if key.startswith(keys.UPLOADS)]) == 3


def test_a_verdict_is_asked_for_once_even_by_many_at_the_same_time() -> None:
    verdicts, asked = ValidationCache(), []

    def read() -> int:
        asked.append(1)
        time.sleep(0.05)
        return 7

    threads = [
        threading.Thread(target=lambda: verdicts.get_or_validate("f", read)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (verdicts.get_or_validate("f", read), len(asked)) == (7, 1)


def test_a_refusal_is_remembered_but_not_that_a_file_was_gone() -> None:
    verdicts = ValidationCache(max_entries=2)

    def refuse() -> int:
        raise Invalid("line 3: no", param="p", code="c")

    def gone() -> int:
        raise NotFound("deleted")

    for read in (refuse, lambda: 1):
        with pytest.raises(Invalid, match="line 3") as caught:
            verdicts.get_or_validate("a", read)
        assert (caught.value.param, caught.value.code) == ("p", "c")
    with pytest.raises(NotFound):
        verdicts.get_or_validate("b", gone)
    assert verdicts.get_or_validate("b", lambda: 2) == 2
    # The least recently used goes first: "a" after "b" was asked for last, and "c" came.
    verdicts.get_or_validate("c", lambda: 3)
    assert verdicts.get_or_validate("b", lambda: 9) == 2
    assert verdicts.get_or_validate("a", lambda: 4) == 4


# --- reading -----------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 40)))
def test_the_first_line_of_each_question_is_remembered(asked: list[int]) -> None:
    seen, first = DuplicateIndex(), {}
    for line, number in enumerate(asked, 1):
        expected = first.setdefault(number, line)
        assert seen.setdefault(question_id(str(number)), line) == expected
    assert len(seen) == len(first)
    assert all((question_id(str(n)) in seen) == (n in first) for n in range(41))


def test_many_questions_take_little_memory() -> None:
    seen = DuplicateIndex()
    for line in range(1, 20_001):
        assert seen.setdefault(question_id(str(line)), line) == line
    assert seen.setdefault(question_id("17"), 60_000) == 17
    assert len(seen) == 20_000
    assert len(seen._table) < 20_000 * 50


@given(st.integers(1, 40))
def test_a_file_is_the_same_in_whatever_pieces_it_comes(size: int) -> None:
    data = b"\xef\xbb\xbf" + rest.lines(sums(5)) + b"\n\r\n" + rest.lines(sums(1, 9))[:-1]
    reader, found = RowReader(), []
    for start in range(0, len(data), size):
        found += list(reader.feed(data[start : start + size]))
    found += list(reader.finish())
    assert found == list(read_rows(io.BytesIO(data)))
    assert [row.line_number for row in found] == [1, 2, 3, 4, 5, 8]


def test_a_file_of_too_many_lines_is_refused() -> None:
    assert len(list(read_rows(io.BytesIO(rest.lines(sums(5))), max_lines=5))) == 5
    for data in (rest.lines(sums(6)), rest.lines(sums(2)) + b"\n" * 100):
        with pytest.raises(Invalid, match="line 6: a file has at most 5 lines"):
            list(read_rows(io.BytesIO(data), max_lines=5))


def test_a_key_that_is_there_twice_is_refused() -> None:
    data = b'{"question": "a"}\n{"question": "b", "question": "c"}\n'
    with pytest.raises(Invalid, match="line 2: broken JSON: key 'question' is there twice"):
        list(read_rows(io.BytesIO(data)))


def test_a_deletion_leaves_alone_what_is_uploaded_meanwhile(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same content again, right after its description went: the new file stays whole."""
    data = rest.lines(sums(3))
    file_id = here.file(sums(3))
    delete, deleted = here.store.delete, list[str]()

    def delete_and_upload(key: str) -> None:
        delete(key)
        deleted.append(key)
        if deleted == [keys.file_meta_key(file_id)]:
            time.sleep(0.002)  # ages are told by the millisecond
            assert here.upload(data).json()["id"] == file_id

    monkeypatch.setattr(here.store, "delete", delete_and_upload)
    assert here.client.delete(f"/v1/files/{file_id}").json()["deleted"] is True
    assert here.client.get(f"/v1/files/{file_id}/content").content == data
    assert [one["id"] for one in here.client.get("/v1/files").json()["data"]] == [file_id]


@pytest.mark.parametrize("kind", ["csv", "json", "parquet", "messages"])
def test_files_of_other_formats_are_taken_and_trained_on(kind: str, tmp_path: Path) -> None:
    """Uploaded as they are, described, given back byte for byte, and read by a job."""
    here = Here(tmp_path / "models")
    rows = [{"text": f"What is {n} + 1?", "answer": n + 1, "source": "a"} for n in range(6)]
    chats = [
        {
            "messages": [
                {"role": "system", "content": "Add."},
                {"role": "user", "content": row["text"]},
                {"role": "assistant", "content": str(row["answer"])},
            ]
        }
        for row in rows
    ]
    table = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), table)
    data = {
        "csv": "\r\n".join(
            ["text,answer,source", *(f"{r['text']},{r['answer']},a" for r in rows)]
        ).encode(),
        "json": json.dumps(rows, indent=1).encode(),
        "parquet": table.getvalue(),
        "messages": rest.lines(chats),
    }[kind]
    reply = here.upload(data, name="data.bin")
    assert reply.status_code == 200, reply.text
    found = reply.json()
    assert found["lines"] == 6
    assert found["format"] == ("jsonl" if kind == "messages" else kind)
    assert here.client.get(f"/v1/files/{found['id']}/content").content == data
    task: dict[str, Any] = {"answer": "number"}
    if kind != "messages":
        assert found["columns"] == ["text", "answer", "source"]
        assert "`task.fields`" in found["notices"][0]
        unmapped = here.create(found["id"], {"task": task})
        assert unmapped.json()["error"]["code"] == "no_question"
        task["fields"] = {"question": "text", "label": "answer"}
    job = here.create(found["id"], {"task": task})
    assert job.status_code == 200, job.text
    kept = job.json()["method"]["qcrd"]["task"]
    assert kept["conversation"] is (kind == "messages")


def test_a_broken_table_leaves_nothing_in_the_store(tmp_path: Path) -> None:
    here = Here(tmp_path / "models")
    before = set(here.store.list(""))
    reply = here.upload(b"question,label\n1,2,3\n")
    assert reply.status_code == 400
    assert reply.json()["error"]["message"].startswith("line 2: it has 3 cells")
    assert set(here.store.list("")) == before
