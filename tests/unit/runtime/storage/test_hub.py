"""The hub's own client against a hub by script: what is refused for good, and what passes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)

from qcrd.errors import NotFound, Transient
from qcrd.runtime.settings import ModelSettings
from qcrd.runtime.storage.base_models import find_base_model
from qcrd.runtime.storage.hub import ModelHub
from qcrd.runtime.storage.store import MemoryStore
from tests import serving, tiny
from tests.fakes.hub import FakeHub, Mood

NAME = "acme/tiny"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def fake(base: Path) -> FakeHub:
    return FakeHub({NAME: base}, renamed={"old/tiny": NAME})


@pytest.fixture
def hub(fake: FakeHub, tmp_path: Path) -> Iterator[ModelHub]:
    with serving.app(fake.app()) as url:
        yield ModelHub(url, timeout=1.0, cache_dir=tmp_path / "cache")


def test_the_fake_refuses_as_the_client_expects(hub: ModelHub, fake: FakeHub) -> None:
    api = HfApi(hub.endpoint)
    with pytest.raises(RepositoryNotFoundError) as refusal:
        api.model_info("all-MiniLM-L6-v2")
    assert refusal.value.response.status_code == 401
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download(NAME, "absent.txt", endpoint=hub.endpoint, cache_dir=hub.cache_dir)
    fake.moods[NAME] = "gated"
    with pytest.raises(GatedRepoError):
        api.model_info(NAME)
    fake.moods[NAME] = "limited"
    with pytest.raises(HfHubHTTPError):
        api.model_info(NAME)


def test_a_model_is_found_by_its_old_name_too(hub: ModelHub) -> None:
    assert hub.is_reachable()
    for name in (NAME, "old/tiny"):
        assert hub.fetch_config(name)["model_type"] == "bert"


def test_files_come_from_the_cdn_and_then_from_the_cache(
    hub: ModelHub, fake: FakeHub, base: Path, tmp_path: Path
) -> None:
    patterns = ["*.json", "*.safetensors"]
    folder = hub.download_snapshot(NAME, patterns)
    weights = "model.safetensors"
    assert (folder / weights).read_bytes() == (base / weights).read_bytes()
    fake.moods[""] = "down"
    assert hub.download_snapshot(NAME, patterns) == folder
    away = replace(hub, endpoint="http://127.0.0.1:9")
    assert away.download_snapshot(NAME, patterns) == folder
    assert find_base_model(NAME, ModelSettings(models_dir=tmp_path), MemoryStore(), hub=hub)


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "acme/absent", "acme/a--b"])
def test_what_the_hub_does_not_have_is_not_found(hub: ModelHub, name: str) -> None:
    with pytest.raises(NotFound):
        hub.fetch_config(name)
    with pytest.raises(NotFound):
        hub.download_snapshot(name, ["*.json"])


@pytest.mark.parametrize("mood", ["limited", "proxy", "proxy_refuses", "down", "bad_token"])
def test_what_may_pass_is_no_answer_about_the_model(
    hub: ModelHub, fake: FakeHub, mood: Mood
) -> None:
    fake.moods[""] = mood
    assert not hub.is_reachable()
    with pytest.raises(Transient, match="the hub cannot be reached"):
        hub.fetch_config(NAME)
    with pytest.raises(Transient, match="the hub cannot be reached"):
        hub.download_snapshot(NAME, ["*.json"])


@pytest.mark.parametrize("mood", ["other_json", "list", "null", "config_list"])
def test_json_that_describes_no_model_comes_from_no_hub(
    hub: ModelHub, fake: FakeHub, mood: Mood
) -> None:
    fake.moods[NAME] = mood
    with pytest.raises(Transient, match="the hub cannot be reached"):
        hub.fetch_config(NAME)


def test_no_look_up_waits_for_a_hub_that_drips(hub: ModelHub, fake: FakeHub) -> None:
    fake.moods[NAME] = "drips"
    with pytest.raises(Transient, match="no whole answer within"):
        replace(hub, total_timeout=0.5).fetch_config(NAME)
    fake.moods.clear()
    assert hub.fetch_config(NAME)


def test_a_gated_model_is_there_but_its_files_are_not_to_be_had(
    hub: ModelHub, fake: FakeHub
) -> None:
    fake.moods[NAME] = "gated"
    assert hub.fetch_config(NAME) == {}
    with pytest.raises(NotFound, match="HF_TOKEN"):
        hub.download_snapshot(NAME, ["*.json"])


def test_no_look_up_waits_for_a_silent_hub(hub: ModelHub, fake: FakeHub) -> None:
    fake.moods[""] = "silent"
    assert not hub.is_reachable()
    with pytest.raises(Transient):
        hub.fetch_config(NAME)


def test_no_download_waits_for_a_silent_hub(hub: ModelHub, fake: FakeHub) -> None:
    """In a process of its own: the client reads its limits once."""
    fake.moods[""] = "silent"
    program = (
        "from qcrd.runtime.storage.hub import ModelHub\n"
        "from qcrd.errors import Transient\n"
        "try: ModelHub().download_snapshot('acme/tiny', ['*.json'])\n"
        "except Transient as error: print(error)"
    )
    limits = {"HF_ENDPOINT": str(hub.endpoint), "HF_HUB_DOWNLOAD_TIMEOUT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **limits, "HF_HOME": str(hub.cache_dir)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "the hub cannot be reached (ReadTimeout" in done.stdout, done.stderr
