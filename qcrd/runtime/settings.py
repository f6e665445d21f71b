"""Where this process is: read once, in a service's `main`, and passed on as frozen values.

What a job is asked to do is never here; that is its spec, `qcrd.records.JobSpec`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import AfterValidator, PositiveFloat, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

T = TypeVar("T")


def _settings_config(prefix: str) -> SettingsConfigDict:
    return SettingsConfigDict(
        env_prefix=prefix,
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        hide_input_in_errors=True,  # it may be a key
    )


class RedisSettings(BaseSettings):
    """Jobs, events, the ledger and the queues' broker all live in this one database."""

    model_config = _settings_config("QCRD_REDIS_")

    url: str = "redis://127.0.0.1:6379/0"


class StoreSettings(BaseSettings):
    """An S3 endpoint as `host:port`. Presigned links carry `public_endpoint` when it is given,
    because a browser seldom reaches the name that containers call the store by."""

    model_config = _settings_config("QCRD_S3_")

    endpoint: str = "127.0.0.1:9000"
    access_key: str = ""
    secret_key: SecretStr = SecretStr("")
    bucket: str = "qcrd"
    secure: bool = False
    public_endpoint: str | None = None


class ModelSettings(BaseSettings):
    """Local base models: `<models_dir>/<name>/config.json`."""

    model_config = _settings_config("QCRD_")

    models_dir: Annotated[Path, AfterValidator(Path.expanduser)] = Path.home() / ".qcrd/models"


class RecoverySettings(BaseSettings):
    """How fast a worker's death is noticed. All workers of one installation need the same values.

    `heartbeat_seconds`: between two beats of a worker; a beat is good for `lease_seconds`.
    `reap_seconds`: between two looks for abandoned jobs; by default a third of a lease, so that a
    job whose worker died is on a queue again within a minute. `resend_seconds`: after which a
    message that nobody took is sent again.
    """

    model_config = _settings_config("QCRD_")

    heartbeat_seconds: PositiveFloat = 10.0
    lease_seconds: PositiveFloat = 45.0
    reap_seconds: PositiveFloat = 15.0
    resend_seconds: PositiveFloat = 300.0

    @model_validator(mode="after")
    def validate_lease_seconds(self) -> Self:
        if self.lease_seconds < 2 * self.heartbeat_seconds:
            raise ValueError(
                f"QCRD_LEASE_SECONDS is {self.lease_seconds:g}, less than two heartbeats of "
                f"{self.heartbeat_seconds:g} s: one late beat would lose the job; raise it, or "
                "lower QCRD_HEARTBEAT_SECONDS"
            )
        return self


class LogSettings(BaseSettings):
    model_config = _settings_config("QCRD_LOG_")

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


def load_settings(factory: Callable[[], T]) -> T:
    """What `read` makes of the environment. `SystemExit` with what is wrong with it, without the
    values, which can be secrets: unlike other errors that ends a Celery worker from the handler of
    a signal too."""
    try:
        return factory()
    except ValidationError as error:
        errors = error.errors(include_input=False, include_context=False)
        messages = [
            ": ".join(filter(None, (".".join(map(str, e["loc"])), e["msg"]))) for e in errors
        ]
        reason = f"{error.title}: {'; '.join(messages)}"
    except SettingsError as error:
        reason = f"{error}: is it JSON?"
    raise SystemExit(f"the environment is wrong: {reason}")
