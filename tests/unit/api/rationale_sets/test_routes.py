"""Rationale sets over REST: pages, filters, edits, scores, export; what a page reads is counted."""

from __future__ import annotations

import io
import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from fastapi.testclient import TestClient

from qcrd.method.answers import question_id
from qcrd.method.self_consistency import majority_vote
from qcrd.questions import labelling, rows
from qcrd.records.api_keys import hash_api_key
from qcrd.records.job import Job
from qcrd.records.rationale_annotations import Polarity, RationaleScore, RationaleScoreManifest
from qcrd.records.rationales import (
    Question,
    Rationale,
    RationaleItem,
    RationaleManifest,
    RationaleSource,
)
from qcrd.records.specs.rationale_spec import RationaleSpec
from qcrd.records.specs.spec import JobSpec, MethodSpec
from qcrd.records.specs.task import TaskSpec
from qcrd.runtime import keys
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from qcrd.runtime.settings import ModelSettings
from qcrd.runtime.storage import rationale_edits
from qcrd.runtime.storage.json_lines import write_lines
from qcrd.runtime.storage.store import MemoryStore, Store, write_record
from services.api.app import create_app
from services.api.dependencies import GatewaySettings
from services.api.rationale_sets import service as rationale_sets
from services.api.settings import ApiSettings, FileSettings, TeacherSettings
from tests.unit.api.gateway_client import refused

SET, JOB, OTHER = (f"{kind}-{'0' * 23}{n}" for kind, n in (("set", 1), ("ftjob", 1), ("ftjob", 2)))
SPEC = MethodSpec(task=TaskSpec.model_validate({"answer": "number"}))


def item(number: int) -> RationaleItem:
    """Five samples, `number` % 3 of them wrong, so margins are 1, 0.6 and 0.2; every seventh
    question got none that could be read."""
    text = f"What is {number} + 1?"
    asked = Question(id=question_id(text), text=text, label=str(number + 1))
    said = [f"Add one to {number}, way {way}." for way in range(5)] if number % 7 else []
    right = 5 - number % 3
    answers = [str(number + 1 if way < right else number) for way in range(len(said))]
    rationales = [
        Rationale(id=keys.digest(asked.id, text), question_id=asked.id, text=text, answer=answer)
        for text, answer in zip(said, answers, strict=True)
    ]
    return RationaleItem(
        question=asked,
        label=asked.label,
        vote=majority_vote(answers or [None] * 5, salt=asked.id),
        positives=tuple(rationales[:right]),
        negatives=tuple(rationales[right:]),
        gold=asked.label,
    )


def keep(store: Store, count: int, shard: int, set_id: str = SET, at: float = 10.0) -> None:
    """A set of questions 0 … `count` - 1 as one from before there were indexes."""
    made, shards = [item(number) for number in range(count)], []
    for number, start in enumerate(range(0, count, shard)):
        shards.append(keys.rationale_shard_key(set_id, number))
        write_lines(store, shards[-1], made[start : start + shard])
    manifest = RationaleManifest(
        id=set_id,
        shards=tuple(shards),
        counts=labelling.count_outcomes(made, reused=0),
        created_at=at,
        training_file="file-a",
        job_id=JOB,
        teacher="default",
    )
    write_record(store, keys.rationale_manifest_key(set_id), manifest)


def score_of(rationale_id: str) -> float:
    return int(rationale_id[:4], 16) / 65536


def judge(store: Store, count: int, *, job: str = JOB, at: float = 20.0) -> None:
    """Scores of every question but each tenth, and of what a student said."""
    lines = [
        RationaleScore(
            rationale_id=said.id,
            question_id=said.question_id,
            polarity=polarity,
            source=RationaleSource.TEACHER,
            score=score_of(said.id) if job == JOB else 0.25,
        )
        for number in range(count)
        if number % 10
        for _, polarity, said in rationale_edits.iter_rationales(item(number))
    ]
    student = RationaleScore(
        rationale_id="x/s3/0",
        question_id="x",
        polarity=Polarity.NEGATIVE,
        source=RationaleSource.STUDENT,
        score=0.5,
        text="said long ago",
    )
    write_lines(store, keys.job_scores_key(job), [*lines, student])
    judged = RationaleScoreManifest(
        job_id=job, version=7, scores=keys.job_scores_key(job), revision="r", created_at=at
    )
    write_record(store, keys.rationale_scores_key(SET, job), judged)


def gateway(
    store: Store,
    folder: Path,
    *,
    who: str | None = None,
    scope: str = "admin",
    jobs: MemoryJobStore | None = None,
) -> TestClient:
    """With `who` it asks for a key, and the client has the one of this name and scope."""
    file = None
    if who is not None:
        file = folder / f"{who}.json"
        key = {"name": who, "sha256": hash_api_key(f"{who}-key"), "scopes": [scope]}
        file.write_text(json.dumps({"keys": [key]}))
    settings = GatewaySettings(
        ApiSettings(keys_file=file),
        TeacherSettings(),
        FileSettings(),
        ModelSettings(models_dir=folder),
    )
    app = create_app(store, jobs or MemoryJobStore(), MemoryEventLog(), MemoryJobQueue(), settings)
    headers = {"Authorization": f"Bearer {who}-key"} if who else {}
    return TestClient(
        app, base_url="http://127.0.0.1", raise_server_exceptions=False, headers=headers
    )


@pytest.fixture
def store() -> MemoryStore:
    made = MemoryStore()
    keep(made, 60, shard=8)
    return made


@pytest.fixture
def client(store: MemoryStore, tmp_path: Path) -> TestClient:
    return gateway(store, tmp_path)


def path(*rest: str, of: str = SET) -> str:
    return "/".join(("/v1/rationale_sets", of, *rest))


def walk(client: TestClient, limit: int, **query: Any) -> list[dict[str, Any]]:
    """Every item by following the cursor; no page is empty but the only one."""
    found: list[dict[str, Any]] = []
    after: dict[str, Any] = {}
    while True:
        answer = client.get(path("items"), params={"limit": limit, **query, **after})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += page["data"]
        if not page["has_more"]:
            return found
        assert 0 < len(page["data"]) <= limit
        after = {"after": page["last_id"]}


def everything(count: int = 60) -> list[tuple[str, Polarity, Rationale, RationaleItem]]:
    made = [item(number) for number in range(count)]
    return [(*said, one) for one in made for said in rationale_edits.iter_rationales(one)]


# --- sets --------------------------------------------------------------------------------------


def test_sets_are_listed_newest_first_in_pages(store: MemoryStore, client: TestClient) -> None:
    others = [f"set-{n:024d}" for n in (7, 5, 6)]
    for at, set_id in enumerate(others, 11):
        keep(store, 2, 2, set_id, at=at)
    first = client.get("/v1/rationale_sets?limit=3").json()
    assert [one["id"] for one in first["data"]] == others[::-1]
    assert first["has_more"] is True
    rest = client.get(f"/v1/rationale_sets?limit=3&after={first['last_id']}").json()
    assert [one["id"] for one in rest["data"]] == [SET]
    assert rest["has_more"] is False
    refused(client.get("/v1/rationale_sets?after=set-1"), 400, "invalid_value", "after")


def test_a_set_is_described(store: MemoryStore, client: TestClient) -> None:
    judge(store, 60)
    found = client.get(path()).json()
    assert (found["teacher"], found["training_file"], found["job_id"]) == ("default", "file-a", JOB)
    assert found["counts"]["questions"] == 60
    assert found["items"] == found["counts"]["positives"] + found["counts"]["negatives"]
    assert found["edits"] == {
        "revision": keys.digest(),
        "edits": 0,
        "items": 0,
        "excluded": 0,
        "reworded": 0,
    }
    assert [(one["job_id"], one["version"]) for one in found["judges"]] == [(JOB, 7)]


@pytest.mark.parametrize("rest", [(), ("items",), ("export",), ("items", f"{'0' * 24}-p0")])
def test_a_set_that_is_not_there(client: TestClient, rest: tuple[str, ...]) -> None:
    absent = f"set-{'9' * 24}"
    refused(client.get(path(*rest, of=absent)), 404, "set_not_found", "set_id")
    refused(client.get(path(*rest, of="set-1")), 404, "set_not_found", "set_id")


# --- items -------------------------------------------------------------------------------------


def test_an_item_tells_all_about_one_rationale(client: TestClient) -> None:
    name, _, said, of = everything()[0]
    found = client.get(path("items", name)).json()
    assert found["id"] == client.get(path("items")).json()["data"][0]["id"] == name
    assert (found["question"], found["label"], found["gold"]) == (of.question.text, "2", "2")
    assert (found["text"], found["answer"], found["rationale_id"]) == (said.text, "2", said.id)
    assert (found["polarity"], found["source"]) == ("positive", "teacher")
    assert found["vote"] == of.vote.model_dump()
    assert (found["margin"], found["tie"], found["score"]) == (of.vote.margin, False, None)
    assert (found["excluded"], found["edits"], found["original"]) == (False, 0, None)
    assert found["history"] == []


FILTERS: tuple[dict[str, Any], ...] = (
    {},
    {"polarity": "positive"},
    {"polarity": "negative"},
    {"min_margin": 0.6},
    {"max_margin": 0.6},
    {"min_margin": 0.2, "max_margin": 0.2},
    {"min_score": 0.5},
    {"max_score": 0.1, "polarity": "negative"},
    {"min_score": 0.9, "min_margin": 0.5, "polarity": "positive"},
    {"min_score": 1},
    {"excluded": True},
    {"excluded": False, "polarity": "negative"},
)


def passes(name: str, polarity: Polarity, said: Rationale, of: RationaleItem, query: Any) -> bool:
    scored = (int(of.question.label or 0) - 1) % 10 != 0
    score = score_of(said.id) if scored else None
    bounded = {"margin": of.vote.margin, "score": score}
    for kind, value in bounded.items():
        low, high = query.get(f"min_{kind}"), query.get(f"max_{kind}")
        if (low is not None or high is not None) and value is None:
            return False
        if (low is not None and value < low) or (high is not None and value > high):
            return False
    if query.get("polarity") not in (None, polarity):
        return False
    return query.get("excluded") in (None, name in EXCLUDED)


EXCLUDED = {everything()[place][0] for place in (0, 7, 100)}


@pytest.mark.parametrize("query", FILTERS, ids=str)
@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_pages_put_together_are_what_passes_the_filter(
    store: MemoryStore, client: TestClient, query: dict[str, Any], limit: int
) -> None:
    judge(store, 60)
    for name in EXCLUDED:
        assert client.patch(path("items", name), json={"excluded": True}).status_code == 200
    found = walk(client, limit, **query)
    expected = [name for *one, of in everything() if passes(*one, of, query) for name in one[:1]]
    assert [one["id"] for one in found] == expected


@pytest.mark.parametrize(
    ("query", "status", "code", "param"),
    [
        ({"min_margin": 0.5, "max_margin": 0.4}, 400, "invalid_value", "min_margin"),
        ({"min_score": "nan"}, 400, "invalid_value", "min_score"),
        ({"max_score": 1.5}, 400, "invalid_value", "max_score"),
        ({"polarity": "unparseable"}, 400, "invalid_value", "polarity"),
        ({"limit": 0}, 400, "invalid_value", "limit"),
        ({"sort": "score"}, 400, "unknown_parameter", "sort"),
        ({"after": "item-1"}, 400, "invalid_id", "after"),
        ({"after": f"{'0' * 24}-p0"}, 404, "item_not_found", "after"),
        ({"judge": OTHER}, 404, "judge_not_found", "judge"),
    ],
)
def test_a_query_that_cannot_be_is_refused(
    client: TestClient, query: dict[str, Any], status: int, code: str, param: str
) -> None:
    refused(client.get(path("items"), params=query), status, code, param)


class Counting(MemoryStore):
    """Counts calls and bytes, and remembers the keys that were opened."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        self.calls["shards" if "/shard-" in key else "open"] += 1
        with super().open(key) as body:
            yield body

    def list(self, prefix: str, *, after: str = "", limit: int | None = None) -> list[str]:
        self.calls["list"] += 1
        return super().list(prefix, after=after, limit=limit)


@pytest.mark.parametrize(
    "query", [{}, {"polarity": "negative", "max_margin": 0.3}, {"min_score": 0.99}], ids=str
)
def test_the_last_page_of_many_reads_what_the_first_does(
    tmp_path: Path, query: dict[str, Any]
) -> None:
    """10,286 items in 40 shards. Once the index is known a page opens the manifest and the judge's
    record, lists edits and judges, and reads one shard or two; four where items are rare."""
    store = Counting()
    keep(store, 2400, shard=60)
    judge(store, 2400)
    client = gateway(store, tmp_path)
    expected = [one["id"] for one in walk(client, 1000, **query)]
    costs: list[Counter[str]] = []
    for place in (None, len(expected) // 2, len(expected) - 11):
        store.calls.clear()
        after = {} if place is None else {"after": expected[place]}
        page = client.get(path("items"), params={"limit": 10, **query, **after}).json()
        begin = 0 if place is None else place + 1
        assert [one["id"] for one in page["data"]] == expected[begin : begin + len(page["data"])]
        costs.append(store.calls.copy())
    rare = "min_score" in query
    for cost in costs:
        assert (cost["open"], cost["list"]) == (2, 2)
        assert cost["shards"] <= (rationale_sets.set_items.SHARDS_PER_PAGE if rare else 2)


def test_an_index_is_made_once_and_holds_for_the_next_process(tmp_path: Path) -> None:
    store = Counting()
    keep(store, 60, shard=8)
    first = walk(gateway(store, tmp_path), 7)
    store.calls.clear()
    assert gateway(store, tmp_path).get(path("items?limit=7")).json()["data"] == first[:7]
    assert store.calls["shards"] <= 2


# --- scores ------------------------------------------------------------------------------------


def test_scores_are_those_of_the_job_that_assembled_or_of_the_one_that_is_named(
    store: MemoryStore, client: TestClient
) -> None:
    name, _, said, _ = everything()[0]
    judge(store, 60, job=OTHER, at=99.0)
    assert client.get(path("items", name)).json()["score"] == 0.25
    judge(store, 60)
    assert client.get(path("items", name)).json()["score"] == score_of(said.id)
    other = client.get(path("items"), params={"judge": OTHER, "limit": 1}).json()
    assert (other["data"][0]["score"], other["judge"]["job_id"]) == (0.25, OTHER)


def test_a_reworded_item_has_no_score_until_it_is_judged(
    store: MemoryStore, client: TestClient
) -> None:
    judge(store, 60)
    name, _, said, _ = everything()[0]
    found = client.patch(path("items", name), json={"text": "Count on from one."}).json()
    assert found["score"] is None
    assert name not in {one["id"] for one in walk(client, 50, min_score=0)}
    line = RationaleScore(
        rationale_id=keys.digest(said.question_id, "Count on from one."),
        question_id=said.question_id,
        polarity=Polarity.POSITIVE,
        source=RationaleSource.TEACHER,
        score=0.75,
    )
    write_lines(store, keys.job_scores_key(OTHER), [line])
    judged = RationaleScoreManifest(
        job_id=OTHER, version=3, scores=keys.job_scores_key(OTHER), revision="r", created_at=50
    )
    write_record(store, keys.rationale_scores_key(SET, OTHER), judged)
    assert [one["id"] for one in walk(client, 50, min_score=0, judge=OTHER)] == [name]
    assert client.get(path("items", name), params={"judge": OTHER}).json()["score"] == 0.75


def test_scores_of_a_deleted_job_are_none(store: MemoryStore, client: TestClient) -> None:
    judge(store, 60)
    store.delete(keys.job_scores_key(JOB))
    assert {one["score"] for one in walk(client, 100)} == {None}


# --- edits -------------------------------------------------------------------------------------


def test_an_edit_says_who_when_and_why_and_keeps_the_original(
    store: MemoryStore, tmp_path: Path
) -> None:
    name, _, said, _ = everything()[3]
    ann, ben = (gateway(store, tmp_path, who=who) for who in ("ann", "ben"))
    ann.patch(path("items", name), json={"excluded": True, "reason": "off the point"})
    ann.patch(path("items", name), json={"text": "Better so.", "answer": "9"})
    found = ben.patch(path("items", name), json={"excluded": False}).json()
    assert (found["text"], found["answer"], found["excluded"]) == ("Better so.", "9", False)
    assert found["original"] == {"text": said.text, "answer": said.answer}
    assert found["edits"] == 3
    told = [(e["by"], e["excluded"], e["text"], e["reason"]) for e in found["history"]]
    assert told == [
        ("ann", True, None, "off the point"),
        ("ann", None, "Better so.", None),
        ("ben", False, None, None),
    ]
    assert all(e["at"] > 1.7e9 for e in found["history"])
    assert ann.get(path("items", name)).json() == found
    assert ann.get(path()).json()["edits"] | {"revision": ""} == {
        "revision": "",
        "edits": 3,
        "items": 1,
        "excluded": 0,
        "reworded": 1,
    }


def test_without_keys_the_editor_is_anonymous(client: TestClient) -> None:
    name = everything()[0][0]
    found = client.patch(path("items", name), json={"excluded": True}).json()
    assert found["history"][0]["by"] == "anonymous"


def test_only_the_owner_of_its_job_or_an_admin_edits_a_set(
    store: MemoryStore, tmp_path: Path
) -> None:
    name, jobs = everything()[0][0], MemoryJobStore()
    spec = JobSpec(model="tiny", training_file="file-a", settings=SPEC)
    jobs.create(Job(id=JOB, spec=spec, created_at=1.0, owner="ann"))
    ann, ben = (
        gateway(store, tmp_path, who=who, scope="write", jobs=jobs) for who in ("ann", "ben")
    )
    refused(ben.patch(path("items", name), json={"excluded": True}), 403, "not_owner")
    assert store.list(keys.rationale_edits_prefix(SET)) == []
    assert ann.patch(path("items", name), json={"excluded": True}).status_code == 200
    jobs.delete(JOB)
    refused(ann.patch(path("items", name), json={"excluded": False}), 403, "not_owner")


def test_edits_at_the_same_time_are_all_kept(store: MemoryStore, tmp_path: Path) -> None:
    """Two gateways, eight hands, the same item: each edit is in the history, and every field is
    what its last edit in the history says."""
    name = everything()[5][0]
    clients = [gateway(store, tmp_path, who=f"k{n}") for n in range(2)]
    barrier = threading.Barrier(8)

    def work(hand: int) -> None:
        barrier.wait()
        for turn in range(5):
            body: dict[str, Any] = {"text": f"{hand}/{turn}"}
            if hand % 2:
                body = {"excluded": bool(turn % 2), "reason": f"{hand}/{turn}"}
            assert clients[hand % 2].patch(path("items", name), json=body).status_code == 200

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    found = clients[0].get(path("items", name)).json()
    assert found == clients[1].get(path("items", name)).json()
    said = {e["text"] or e["reason"] for e in found["history"]}
    assert said == {f"{hand}/{turn}" for hand in range(8) for turn in range(5)}
    for hand in range(8):
        turns = [e["text"] or e["reason"] for e in found["history"]]
        assert [t for t in turns if t.startswith(f"{hand}/")] == [f"{hand}/{t}" for t in range(5)]
    last = [e for e in found["history"] if e["text"] is not None][-1]
    assert found["text"] == last["text"]


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({}, 400, "empty_edit", None),
        ({"reason": "because"}, 400, "empty_edit", None),
        ({"excluded": None}, 400, "empty_edit", None),
        ({"hidden": True}, 400, "invalid_value", "hidden"),
        ({"text": "  \n"}, 400, "invalid_value", "text"),
        ({"text": "x" * 32_769}, 400, "invalid_value", "text"),
        ({"text": 5}, 400, "invalid_value", "text"),
        ({"answer": ""}, 400, "invalid_value", "answer"),
        ([], 400, "invalid_value", None),
    ],
)
def test_an_edit_that_says_nothing_or_too_much_is_refused(
    store: MemoryStore, client: TestClient, body: Any, status: int, code: str, param: str | None
) -> None:
    before = store.list("")
    refused(client.patch(path("items", everything()[0][0]), json=body), status, code, param)
    assert [key for key in store.list("") if key not in before and "index" not in key] == []


def test_half_a_character_is_refused(client: TestClient) -> None:
    raw = client.patch(
        path("items", everything()[0][0]),
        content=b'{"text": "\\ud800"}',
        headers={"content-type": "application/json"},
    )
    refused(raw, 400, "not_utf8", "text")


def test_an_item_has_one_id(store: MemoryStore, client: TestClient) -> None:
    """Under another spelling of its place an edit would be kept and never be found."""
    name = everything()[0][0]
    assert name.endswith("-p0")
    for other in (f"{name}0", f"{name[:-1]}01"):
        answer = client.patch(path("items", other), json={"excluded": True})
        refused(answer, 400, "invalid_id", "item_id")
    assert store.list(keys.rationale_edits_prefix(SET)) == []


@pytest.mark.parametrize("name", ["x", f"{'0' * 24}-q0", f"{'0' * 24}-p99999", "..%2F..%2Fjobs"])
def test_what_is_not_an_items_id_becomes_no_key(client: TestClient, name: str) -> None:
    answer = client.patch(path("items", name), json={"excluded": True})
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["code"] in ("invalid_id", "unknown_url")


def test_an_item_that_the_set_lacks_is_not_edited(store: MemoryStore, client: TestClient) -> None:
    beyond = f"{item(1).question.id}-p5"
    answer = client.patch(path("items", beyond), json={"excluded": True})
    refused(answer, 404, "item_not_found", "item_id")
    assert store.list(keys.rationale_edits_prefix(SET)) == []


# --- export ------------------------------------------------------------------------------------


def exported(client: TestClient, **query: Any) -> list[dict[str, Any]]:
    answer = client.get(path("export"), params=query)
    assert answer.headers["content-type"] == "application/jsonl"
    return [json.loads(line) for line in answer.text.splitlines()]


def test_an_export_has_every_item_that_passes_as_it_is_now(
    store: MemoryStore, client: TestClient
) -> None:
    judge(store, 60)
    name = everything()[4][0]
    client.patch(path("items", name), json={"text": "Reworded.", "excluded": True})
    assert exported(client) == walk(client, 1000)
    assert exported(client, polarity="negative") == walk(client, 1000, polarity="negative")
    assert name not in {one["id"] for one in exported(client, excluded=False)}
    refused(client.get(path("export"), params={"format": "csv"}), 400, "invalid_value", "format")


def test_an_exported_questions_file_imports_as_the_same_knowledge(client: TestClient) -> None:
    """Without edits each vote and each side comes out as it was; what is excluded is gone."""
    name, *_ = everything()[0]
    client.patch(path("items", name), json={"excluded": True})
    body = client.get(path("export"), params={"format": "questions"}).content
    read = list(rows.read_rows(io.BytesIO(body)))
    spec = SPEC.model_copy(update={"rationales": RationaleSpec(import_file="file-b")})
    again = {row.question.id: labelling.build_item(row.question, row.outputs, spec) for row in read}
    before = {one.question.id: one for one in map(item, range(60)) if one.positives}
    assert again.keys() == before.keys()
    first = item(1)
    assert again.pop(first.question.id).positives == first.positives[1:]
    for key, made in again.items():
        assert made.positives == before[key].positives
        assert made.negatives == before[key].negatives
        assert made.vote.answer == before[key].vote.answer
