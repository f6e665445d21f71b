"""Students whose files cannot be loaded."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from qcrd.errors import Invalid
from qcrd.runtime import keys
from qcrd.runtime.storage.store import MemoryStore
from services.teacher.settings import ServerSettings
from services.teacher.students.errors import StudentNotFound, StudentNotLoadable
from services.teacher.students.judge_client import JudgeClient
from services.teacher.students.loading import StudentLoader

MODEL = "model-" + "0" * 24

NO_JUDGE = JudgeClient("http://127.0.0.1:9")


def test_a_student_that_cannot_be_loaded_leaves_no_files_behind() -> None:
    store = MemoryStore()
    store.put(keys.model_manifest_key(MODEL), b"{}")
    store.put(f"{keys.model_prefix(MODEL)}qcrd.json", b"{]")
    load = StudentLoader(store, ServerSettings(), NO_JUDGE, threads=1, slots=1)
    with pytest.raises(StudentNotLoadable, match=r"qcrd\.json is not JSON") as refused:
        asyncio.run(load(MODEL))
    assert isinstance(refused.value.__cause__, Invalid)
    folder = Path(refused.value.__cause__.message.split("/qcrd.json")[0])
    assert folder.name == MODEL
    assert not folder.parent.exists()
    assert str(folder.parent) not in refused.value.message


def test_a_student_that_is_not_published_is_not_found() -> None:
    load = StudentLoader(MemoryStore(), ServerSettings(), NO_JUDGE, threads=1, slots=1)
    for name in (MODEL, "../etc"):
        with pytest.raises(StudentNotFound):
            asyncio.run(load(name))
