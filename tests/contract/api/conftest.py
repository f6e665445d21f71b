"""A gateway on a real Redis, for what a test damages there or in the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from qcrd.runtime.settings import RedisSettings
from tests.contract.api.damaged_redis import DamagedGateway


@pytest.fixture
def gateway(
    redis_settings: RedisSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> DamagedGateway:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return DamagedGateway(redis_settings, tmp_path / "models")
