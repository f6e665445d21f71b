"""Where this process is: read once, in a service's `main`, and passed on as frozen values.

What a job is asked to do is never here; that is its spec, `qcrd.records.JobSpec`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


def _settings(prefix: str) -> SettingsConfigDict:
    return SettingsConfigDict(env_prefix=prefix, frozen=True, extra="ignore", env_ignore_empty=True)


class RedisSettings(BaseSettings):
    """Jobs, events, the ledger and the queues' broker all live in this one database."""

    model_config = _settings("QCRD_REDIS_")

    url: str = "redis://127.0.0.1:6379/0"


class StoreSettings(BaseSettings):
    """An S3 endpoint as `host:port`. Presigned links carry `public_endpoint` when it is given,
    because a browser seldom reaches the name that containers call the store by."""

    model_config = _settings("QCRD_S3_")

    endpoint: str = "127.0.0.1:9000"
    access_key: str = ""
    secret_key: SecretStr = SecretStr("")
    bucket: str = "qcrd"
    secure: bool = False
    public_endpoint: str | None = None


class ModelSettings(BaseSettings):
    """Local base models: `<models_dir>/<name>/config.json`."""

    model_config = _settings("QCRD_")

    models_dir: Annotated[Path, AfterValidator(Path.expanduser)] = Path.home() / ".qcrd/models"


class LogSettings(BaseSettings):
    model_config = _settings("QCRD_LOG_")

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
