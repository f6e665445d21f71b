"""What a listing has found may be deleted before it is read: the others are listed all the same."""

from __future__ import annotations

import re
from typing import Any

import pytest

from qcrd.errors import NotFound
from qcrd.records.job import PublishedModel
from qcrd.records.judge import CreateJudgeRequest, JudgeVersion
from qcrd.records.specs.training_spec import JudgeSpec
from qcrd.runtime import keys
from qcrd.runtime.storage.published_models import add_published_model
from qcrd.runtime.storage.store import MemoryStore, write_record
from tests.unit.api.gateway_client import Here, published, sums

JUDGES = [f"ftjob-{number:024d}" for number in range(3)]


def lose(here: Here, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """Somebody deletes `key` after each listing and before it is read."""
    reads = here.store.open

    def open_(name: str) -> Any:
        if name == key:
            raise NotFound(f"there is no object {key}")
        return reads(name)

    monkeypatch.setattr(here.store, "open", open_)


def judge(store: MemoryStore, judge_id: str) -> None:
    spec = CreateJudgeRequest(base="tiny", spec=JudgeSpec(), seed=3)
    write_record(store, keys.judge_spec_key(judge_id), spec)
    for number in (0, 1):
        key = keys.judge_description_key(judge_id, number)
        write_record(store, key, JudgeVersion(version=number))


def listed(here: Here, path: str, **query: Any) -> tuple[list[str], bool]:
    answer = here.client.get(f"/v1/{path}", params=query)
    assert answer.status_code == 200, answer.text
    return [one["id"] for one in answer.json()["data"]], answer.json()["has_more"]


def test_a_judge_without_a_spec_is_not_listed(here: Here) -> None:
    for judge_id in JUDGES:
        judge(here.store, judge_id)
    here.store.delete(keys.judge_spec_key(JUDGES[1]))
    assert listed(here, "discriminators") == ([JUDGES[0], JUDGES[2]], False)
    assert listed(here, "discriminators", limit=1) == ([JUDGES[0]], True)
    assert listed(here, "discriminators", limit=1, after=JUDGES[0]) == ([JUDGES[2]], False)


def test_a_judge_that_is_being_deleted_is_left_out(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    for judge_id in JUDGES:
        judge(here.store, judge_id)
    lose(here, monkeypatch, keys.judge_spec_key(JUDGES[0]))
    assert listed(here, "discriminators", limit=1) == ([JUDGES[1]], True)
    lose(here, monkeypatch, keys.judge_description_key(JUDGES[1], 1))
    found = here.client.get(f"/v1/discriminators/{JUDGES[1]}").json()
    assert [one["version"] for one in found["versions"]] == [0]


@pytest.mark.parametrize("dated", [True, False])
def test_a_file_that_is_being_deleted_is_left_out(
    dated: bool, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dated`: its age stands in the name of a key, or is read from its description."""
    ids = [here.file(sums(2, start)) for start in (0, 10, 20)]
    for key in here.store.list(keys.FILES):
        if not dated and re.search("/at-", key):
            here.store.delete(key)
    order, _ = listed(here, "files")
    assert sorted(order) == sorted(ids)
    lose(here, monkeypatch, keys.file_meta_key(order[0]))
    assert sorted(listed(here, "files")[0]) == sorted(order[1:])
    assert len(listed(here, "files", limit=1)[0]) == 1


def test_a_model_that_is_being_deleted_is_left_out(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = published(here.store), published(here.store)
    lose(here, monkeypatch, keys.model_manifest_key(first.id))
    assert listed(here, "models")[0] == [second.id]


def test_models_are_listed_newest_first_and_by_pages_that_read_no_more(here: Here) -> None:
    """Also those that an earlier release published, which has no index of them."""
    models = [
        PublishedModel(
            id=f"model-{number:024x}",
            job_id=keys.new_id("ftjob"),
            created_at=5.0 + number // 2,
            base="tiny",
            files=(),
        )
        for number in range(12)
    ]
    for number, model in enumerate(models):
        if number >= 6:
            add_published_model(here.store, model)
        write_record(here.store, keys.model_manifest_key(model.id), model)
        if number == 5:
            assert len(listed(here, "models")[0]) == 6
    expected = [model.id for model in reversed(models)]
    assert listed(here, "models") == (expected, False)
    assert listed(here, "models", limit=5) == (expected[:5], True)
    assert listed(here, "models", limit=5, after=expected[4]) == (expected[5:10], True)
    assert listed(here, "models", limit=5, after=expected[9]) == (expected[10:], False)
    unknown = here.client.get("/v1/models", params={"after": "model-" + "f" * 24})
    assert unknown.status_code == 400
    again = models[0].model_copy(update={"created_at": 99.0})  # its publishing was repeated
    add_published_model(here.store, again)
    write_record(here.store, keys.model_manifest_key(again.id), again)
    assert listed(here, "models")[0] == [again.id, *expected[:-1]]
    here.client.delete(f"/v1/models/{again.id}")
    assert listed(here, "models")[0] == expected[:-1]
