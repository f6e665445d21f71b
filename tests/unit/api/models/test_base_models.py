"""A gateway that has no models folder: what the trainers report, and what the hub says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qcrd.errors import Invalid
from qcrd.records.base_models import BaseModelInfo, BaseModelReport
from qcrd.runtime.redis.base_model_reports import MemoryBaseModelReports
from qcrd.runtime.settings import ModelSettings
from qcrd.runtime.storage.base_models import list_local_models
from qcrd.runtime.storage.hub import ModelHub
from qcrd.runtime.storage.store import MemoryStore
from services.api.models.base_models import BaseModelCatalog
from tests import serving
from tests.fakes.hub import FakeHub, Mood

MINILM = "all-MiniLM-L6-v2"
CONFIG = {"model_type": "bert"}
ELSEWHERE: list[Mood] = ["limited", "proxy", "proxy_refuses", "down", "silent", "bad_token"]


@pytest.fixture
def fake(tmp_path: Path) -> FakeHub:
    folder = tmp_path / "acme"
    folder.mkdir()
    return FakeHub({"acme/tiny": folder})


@pytest.fixture
def catalog(fake: FakeHub, tmp_path: Path) -> Iterator[BaseModelCatalog]:
    with serving.app(fake.app()) as url:
        yield BaseModelCatalog(
            ModelSettings(models_dir=tmp_path / "absent"),
            MemoryStore(),
            MemoryBaseModelReports(),
            ModelHub(url, timeout=1.0),
        )


def report(
    catalog: BaseModelCatalog,
    worker: str = "trainer-0",
    *,
    reaches_hub: bool = False,
    **models: BaseModelInfo,
) -> None:
    named = {name.replace("_", "-"): info for name, info in models.items()}  # names with dashes
    catalog.reports.publish(
        BaseModelReport(
            worker=worker, models=named, reaches_hub=reaches_hub, reported_at=time.time()
        )
    )


def test_what_a_trainer_brings_is_taken_whatever_the_hub_says(
    catalog: BaseModelCatalog, fake: FakeHub
) -> None:
    report(catalog, all_MiniLM_L6_v2=BaseModelInfo(config=CONFIG))
    assert catalog.get_config(MINILM, "model") == CONFIG
    assert fake.requests == []


def test_what_neither_has_is_refused_and_the_choice_is_named(catalog: BaseModelCatalog) -> None:
    report(catalog, all_MiniLM_L6_v2=BaseModelInfo(config=CONFIG))
    with pytest.raises(Invalid, match="In the trainers' models folder: all-MiniLM-L6-v2; the hub"):
        catalog.get_config("tyni", "model")


def test_what_the_hub_has_is_taken(catalog: BaseModelCatalog, fake: FakeHub) -> None:
    assert catalog.get_config("acme/tiny", "model")["model_type"] == "bert"
    fake.moods["acme/tiny"] = "gated"
    assert catalog.get_config("acme/tiny", "model") == {}


@pytest.mark.parametrize("mood", ELSEWHERE)
def test_a_hub_that_does_not_answer_refuses_nothing_before_a_trainer_has_reported(
    catalog: BaseModelCatalog, fake: FakeHub, mood: Mood
) -> None:
    fake.moods[""] = mood
    assert catalog.get_config(MINILM, "model") == {}


@pytest.mark.parametrize("mood", ["proxy", "down"])
def test_then_it_depends_on_whether_a_trainer_reaches_it(
    catalog: BaseModelCatalog, fake: FakeHub, mood: Mood
) -> None:
    fake.moods[""] = mood
    report(catalog, tiny=BaseModelInfo())
    with pytest.raises(Invalid, match="the hub cannot be reached") as refusal:
        catalog.get_config("acme/tiny", "model")
    assert (refusal.value.param, refusal.value.code) == ("model", "model_not_found")
    report(catalog, "trainer-1", reaches_hub=True)
    assert catalog.get_config("acme/tiny", "model") == {}


def test_a_copy_that_cannot_be_used_is_refused_unless_another_trainer_has_a_good_one(
    catalog: BaseModelCatalog,
) -> None:
    report(catalog, tiny=BaseModelInfo(problem="has a pointer"))
    with pytest.raises(Invalid, match="'tiny' has a pointer"):
        catalog.get_config("tiny", "model")
    report(catalog, "trainer-1", tiny=BaseModelInfo(config=CONFIG))
    assert catalog.get_config("tiny", "model") == CONFIG


def test_a_part_of_a_model_is_no_base(tmp_path: Path) -> None:
    for name in ("encoder", "encoder/1_Pooling", "owner/base", "owner/base/onnx"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "config.json").write_text("{}")
    assert list_local_models(ModelSettings(models_dir=tmp_path)) == ["encoder", "owner/base"]
