"""The discriminator over a socket: versions, idempotence, restarts."""

from __future__ import annotations

import math
from pathlib import Path

import httpx2
import pytest
from safetensors.torch import load, save

from qcrd.errors import Diverged, LeaseLost
from qcrd.method.judge.training_pairs import TrainingPair
from qcrd.records.judge import CreateJudgeRequest
from qcrd.records.specs.training_spec import JudgeSpec
from qcrd.runtime.settings import ModelSettings
from qcrd.runtime.storage.store import MemoryStore, Store, read_object
from services.discriminator.main import build_app
from services.discriminator.registry import JudgeRegistry
from services.discriminator.schemas import TrainingPairSchema
from services.discriminator.settings import DiscriminatorSettings
from services.trainer.judge_client import RemoteJudge
from tests import tiny
from tests.integration.conftest import Serve

JUDGE = "ftjob-" + "0" * 24
SPEC = JudgeSpec(pretrain_steps=4, update_steps=2, batch_size=4, hidden=8, max_tokens=32)
CONTRASTS = [
    TrainingPair(f"what kind of thing is {thing} ?", (f"it {does}",), ("it is a thing",))
    for thing, does in (("trout", "swims"), ("apple", "grows"), ("hammer", "hits nails"))
]
PAIRS = [("what kind of thing is trout ?", "it swims"), ("apple ?", "it is a thing")]


@pytest.fixture
def models(tmp_path: Path) -> ModelSettings:
    tiny.save_base(tmp_path / "tiny-bert")
    return ModelSettings(models_dir=tmp_path)


def start(serve: Serve, store: Store, models: ModelSettings) -> str:
    return serve(build_app(DiscriminatorSettings(device="cpu"), store, models))


def remote(url: str, spec: JudgeSpec = SPEC) -> RemoteJudge:
    return RemoteJudge(url, JUDGE, base="tiny-bert", spec=spec, seed=3, check=lambda: None)


def test_a_judge_goes_through_its_versions(serve: Serve, models: ModelSettings) -> None:
    judge = remote(start(serve, MemoryStore(), models))
    untrained = judge.score(PAIRS)
    assert judge.pretrain(CONTRASTS)["loss"] != 0
    pretrained = judge.score(PAIRS)
    judge.update(0, CONTRASTS, weight=0.5)
    updated = judge.score(PAIRS)
    assert untrained != pretrained != updated
    assert all(0 < score < 1 for score in updated)
    assert judge.flops > 0


def test_health_is_told_by_source_and_kept_with_the_version(
    serve: Serve, models: ModelSettings
) -> None:
    """Of 40 questions some are held back; their histograms count what the numbers count."""
    named = [
        TrainingPair(f"question {i} ?", ("it swims",), ("it is a thing", "it hits nails"),
                 ("student_lag", "teacher_minority"))
        for i in range(40)
    ]  # fmt: skip
    url = start(serve, MemoryStore(), models)
    judge = remote(url)
    pretrained = judge.pretrain(named)
    assert pretrained["questions"] == pretrained["questions_with_real_negatives"] > 0
    measured = judge.update(0, named, weight=0.5)
    assert measured["n_student_lag"] == measured["n_teacher_minority"] == measured["positives"] > 0
    assert measured["negatives"] == 2 * measured["positives"]
    assert {"auc_student_lag", "auc_teacher_minority", "brier", "ece"} <= set(measured)
    assert judge.histograms is not None
    counted = {name: sum(counts) for name, counts in judge.histograms.scores.items()}
    assert counted == {
        "positives": measured["positives"],
        "student_lag": measured["n_student_lag"],
        "teacher_minority": measured["n_teacher_minority"],
    }
    assert len(judge.histograms.reliability) == 10
    kept = httpx2.get(f"{url}/v1/judges/{JUDGE}").json()
    assert kept["histograms"] == judge.histograms.model_dump(mode="json")


def test_a_source_for_every_negative_or_none(serve: Serve, models: ModelSettings) -> None:
    url = start(serve, MemoryStore(), models)
    remote(url)
    plain = {"question": "q", "positives": ["it swims"], "negatives": ["a thing", "a tool"]}
    path = f"{url}/v1/judges/{JUDGE}/pretrain"
    answer = httpx2.post(path, json={"contrasts": [{**plain, "sources": ["student_lag"]}]})
    assert answer.status_code == 400
    assert "1 sources for 2 negatives" in answer.text
    assert httpx2.post(path, json={"contrasts": [plain]}).status_code == 200


def test_broken_json_and_unknown_urls_are_answered_like_the_gateway_does(
    serve: Serve, models: ModelSettings
) -> None:
    url = start(serve, MemoryStore(), models)
    broken = httpx2.put(
        f"{url}/v1/judges/{JUDGE}", content=b"{", headers={"content-type": "application/json"}
    )
    unknown = httpx2.get(f"{url}/v1/judge")
    codes = [(answer.status_code, answer.json()["error"]["code"]) for answer in (broken, unknown)]
    assert codes == [(400, "broken_json"), (404, "unknown_url")]


def test_a_repeated_call_answers_the_same_and_trains_nothing(
    serve: Serve, models: ModelSettings
) -> None:
    judge = remote(start(serve, MemoryStore(), models))
    judge.pretrain(CONTRASTS)
    first, spent = judge.update(0, CONTRASTS, weight=0.5), judge.flops
    scores = judge.score(PAIRS)
    assert judge.update(0, CONTRASTS, weight=0.5) == first
    assert judge.score(PAIRS) == scores
    assert judge.flops > spent


def test_a_restarted_service_goes_on_from_the_store(serve: Serve, models: ModelSettings) -> None:
    """Killed after the first update: the next update gives what it would have given."""
    store = MemoryStore()
    judge = remote(start(serve, store, models))
    judge.pretrain(CONTRASTS)
    judge.update(0, CONTRASTS, weight=0.5)
    other = MemoryStore()
    for key in store.list(""):
        with store.open(key) as body:
            other.put(key, body.read())
    judge.update(1, CONTRASTS, weight=0.4)
    again = remote(start(serve, other, models))
    again.update(1, CONTRASTS, weight=0.4)
    assert again.score(PAIRS) == judge.score(PAIRS)


def test_an_earlier_version_can_be_restored(serve: Serve, models: ModelSettings) -> None:
    url = start(serve, MemoryStore(), models)
    judge = remote(url)
    judge.pretrain(CONTRASTS)
    pretrained = judge.score(PAIRS)
    judge.update(0, CONTRASTS, weight=1.0)
    answer = httpx2.post(f"{url}/v1/judges/{JUDGE}/restore", json={"version": 1})
    assert answer.json()["version"] == 1
    scored = httpx2.post(f"{url}/v1/judges/{JUDGE}/score", json={"pairs": PAIRS}).json()
    assert (scored["version"], scored["scores"]) == (1, pretrained)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("POST", f"/v1/judges/{JUDGE}/score", {"pairs": []}, 404, "create it first"),
        ("PUT", "/v1/judges/no-id", {"base": "x", "spec": {}, "seed": 0}, 400, "judge_id"),
        ("PUT", f"/v1/judges/{JUDGE}", {"base": "no", "spec": {}, "seed": 0}, 404, "tiny-bert"),
        ("PUT", f"/v1/judges/{JUDGE}", {"base": "../x", "spec": {}, "seed": 0}, 400, "no model"),
        (
            "PUT",
            f"/v1/judges/{JUDGE}",
            {"base": "a", "spec": {"hidden": 0}, "seed": 0},
            400,
            "hidden",
        ),
    ],
)
def test_bad_requests_name_what_is_wrong(
    serve: Serve,
    models: ModelSettings,
    method: str,
    path: str,
    body: object,
    status: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # or it waits for the hub
    answer = httpx2.request(method, start(serve, MemoryStore(), models) + path, json=body)
    assert answer.status_code == status
    assert says in answer.text


def test_another_spec_for_the_same_judge_is_a_conflict(serve: Serve, models: ModelSettings) -> None:
    url = start(serve, MemoryStore(), models)
    remote(url)
    with pytest.raises(Exception, match="another spec"):
        remote(url, SPEC.model_copy(update={"hidden": 16}))


def test_health_ready_and_metrics(serve: Serve, models: ModelSettings) -> None:
    url = start(serve, MemoryStore(), models)
    assert httpx2.get(url + "/health").status_code == 200
    assert httpx2.get(url + "/ready").status_code == 200
    assert "qcrd_http_requests" in httpx2.get(url + "/metrics").text


def test_training_that_was_set_back_scores_with_its_own_version_after_a_restart(
    serve: Serve, models: ModelSettings
) -> None:
    """Killed in iteration 1 and resumed in iteration 0, while the service restarts as well."""
    store = MemoryStore()
    before = remote(start(serve, store, models))
    before.pretrain(CONTRASTS)
    before.update(0, CONTRASTS, weight=0.5)
    scores = before.score(PAIRS)
    before.update(1, CONTRASTS, weight=0.5)
    assert before.score(PAIRS) != scores
    resumed = remote(start(serve, store, models))
    resumed.update(0, CONTRASTS, weight=0.5)
    resumed._client.base_url = start(serve, store, models)
    assert resumed.score(PAIRS) == scores


def remote_of_lease(url: str, token: int) -> RemoteJudge:
    return RemoteJudge(
        url, JUDGE, base="tiny-bert", spec=SPEC, seed=3, check=lambda: None, token=token
    )


def test_a_trainer_whose_lease_went_to_another_one_changes_nothing(
    serve: Serve, models: ModelSettings
) -> None:
    """It wakes after the other one has begun, and again after the service was started anew."""
    store = MemoryStore()
    url = start(serve, store, models)
    old = remote_of_lease(url, 1)
    old.pretrain(CONTRASTS)
    new = remote_of_lease(url, 2)
    with pytest.raises(LeaseLost, match="lease 2"):
        old.update(0, CONTRASTS[:1], weight=0.5)
    restarted = start(serve, store, models)
    with pytest.raises(LeaseLost, match="lease 2"):
        remote_of_lease(restarted, 1)
    health = new.update(0, CONTRASTS, weight=0.5)
    alone = remote(start(serve, MemoryStore(), models))
    alone.pretrain(CONTRASTS)
    assert alone.update(0, CONTRASTS, weight=0.5) == health
    assert alone.score(PAIRS) == new.score(PAIRS)


def test_a_version_in_training_is_not_kept_once_a_newer_lease_has_asked(
    serve: Serve, models: ModelSettings
) -> None:
    registry = JudgeRegistry(
        store := MemoryStore(), lambda name: models.models_dir / name, max_resident=1, device="cpu"
    )
    registry.create_judge(JUDGE, CreateJudgeRequest(base="tiny-bert", spec=SPEC, seed=3), token=1)
    pairs = [TrainingPairSchema(question="q", positives=("it swims",), negatives=("a thing",))]
    with registry.use_judge(JUDGE, token=1) as judge:
        judge.admit(2)  # while the call of lease 1 is at work
        with pytest.raises(LeaseLost):
            judge.pretrain(pairs, token=1)
        assert store.list(f"judges/{JUDGE}/000001") == []
        assert judge.pretrain(pairs, token=2).version == 1
    fresh = remote(start(serve, MemoryStore(), models))
    pretrained = [TrainingPair("q", ("it swims",), ("a thing",))]
    fresh.pretrain(pretrained)
    again = remote_of_lease(start(serve, store, models), 2)
    assert again.score(PAIRS) == fresh.score(PAIRS)


def test_a_judge_that_diverged_says_so_and_what_to_lower(
    serve: Serve, models: ModelSettings
) -> None:
    """Its weights are no numbers any more, and so are its scores, which JSON would make null."""
    store = MemoryStore()
    remote(start(serve, store, models)).pretrain(CONTRASTS)
    weights_key = f"judges/{JUDGE}/000001/model.safetensors"
    weights = load(read_object(store, weights_key))
    store.put(weights_key, save({name: weights[name] * math.nan for name in weights}))
    judge = remote(start(serve, store, models))
    for call in (
        lambda: judge.score(PAIRS),
        lambda: judge.update(0, CONTRASTS, weight=0.5),
    ):
        with pytest.raises(Diverged, match=r"lower `discriminator\.learning_rate`"):
            call()
    assert not store.list(f"judges/{JUDGE}/000002")


def test_its_document_has_the_errors_that_it_answers(serve: Serve, models: ModelSettings) -> None:
    document = httpx2.get(f"{start(serve, MemoryStore(), models)}/openapi.json").json()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if path.startswith("/v1/"):
                assert {"400", "404", "409", "503"} <= set(operation["responses"])
