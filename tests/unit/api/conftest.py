"""What the tests of the gateway start from: one in memory, and no model hub."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.api.gateway_client import Here


@pytest.fixture
def without_a_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def here(tmp_path: Path, without_a_hub: None) -> Here:
    return Here(tmp_path / "models")
