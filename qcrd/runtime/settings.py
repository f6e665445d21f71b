"""Settings of a process: read from the environment once, in `main`, and passed on frozen.

What a job is asked to do is never here; that is its spec, `qcrd.records.JobSpec`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PositiveFloat,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    SettingsError,
)
from redis.connection import parse_url

T = TypeVar("T")


SECRETS_DIR_VARIABLE = "QCRD_SECRETS_DIR"
"""Folders, with ":" between them, whose files have the names and values of variables that are not
set: mounted secrets show in no process's environment."""


class EnvironmentSettings(BaseSettings):
    """Settings of one concern, read from the environment once and frozen.

    A subclass names its prefix: `class LogSettings(EnvironmentSettings, env_prefix="QCRD_LOG_")`.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        hide_input_in_errors=True,  # it may be a key
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        secrets = SecretsSettingsSource(settings_cls, secrets_dir=_list_secret_folders())
        return init_settings, env_settings, secrets

    @classmethod
    def get_variable(cls, field: str) -> str:
        """Name of the environment variable that `field` is read from."""
        alias = cls.model_fields[field].validation_alias if field in cls.model_fields else field
        return str(alias or f"{cls.model_config['env_prefix']}{field}").upper()


def _list_secret_folders() -> list[Path]:
    folders = [Path(part) for part in os.environ.get(SECRETS_DIR_VARIABLE, "").split(":") if part]
    for folder in folders:
        if not folder.is_dir():
            raise SettingsError(f"{SECRETS_DIR_VARIABLE}: there is no folder {folder}")
    return folders


def split_comma_separated(value: object) -> object:
    """Values of a comma-separated variable; what is not text is left as it is."""
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    return value


CommaSeparated = BeforeValidator(split_comma_separated)
HttpUrl = Annotated[str, Field(pattern=r"^https?://")]
Port = Annotated[int, Field(ge=0, le=65535)]


def _check_redis_url(url: str) -> str:
    try:
        parse_url(url)
    except ValueError:  # its message may repeat the password
        message = "Input should be redis://HOST:PORT/DB, rediss://HOST:PORT/DB or unix://PATH"
        raise ValueError(message) from None
    return url


class RedisSettings(EnvironmentSettings, env_prefix="QCRD_REDIS_"):
    """The database of jobs, events, paid generations and the Celery queues."""

    url: Annotated[str, AfterValidator(_check_redis_url)] = "redis://127.0.0.1:6379/0"


ENDPOINT = re.compile(r"(?:[\w.-]+|\[[0-9a-fA-F:]+\])(?::\d{1,5})?")
ENDPOINT_SCHEME = re.compile(r"(https?)://(.*?)/?", re.IGNORECASE)


def _check_endpoint(endpoint: str) -> str:
    if not ENDPOINT.fullmatch(endpoint):
        raise ValueError(
            "Input should be HOST:PORT, such as 127.0.0.1:9000, or http://HOST:PORT or "
            "https://HOST:PORT, without a path"
        )
    return endpoint


def _split_scheme(endpoint: object) -> tuple[bool | None, object]:
    """Whether the endpoint's scheme is HTTPS, None without one, and the endpoint without it."""
    match = ENDPOINT_SCHEME.fullmatch(endpoint.strip()) if isinstance(endpoint, str) else None
    return (match[1].lower() == "https", match[2]) if match else (None, endpoint)


Endpoint = Annotated[str, AfterValidator(_check_endpoint)]


class StoreSettings(EnvironmentSettings, env_prefix="QCRD_S3_"):
    """An S3 endpoint as `host:port`, or as a URL, whose scheme decides `secure`. Presigned links
    carry `public_endpoint` when it is given, because a browser seldom reaches the name that
    containers call the store by.

    Without `access_key` the credentials are those of the environment or of the machine's role,
    which is asked for at `credentials_url` where that is not AWS.
    """

    endpoint: Endpoint = "127.0.0.1:9000"
    region: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")] = "us-east-1"
    access_key: str = ""
    secret_key: SecretStr = SecretStr("")
    session_token: SecretStr = SecretStr("")
    credentials_url: HttpUrl | None = None
    bucket: str = "qcrd"
    secure: bool = False
    public_endpoint: Endpoint | None = None

    @model_validator(mode="before")
    @classmethod
    def split_schemes(cls, data: Any) -> Any:
        """Take the scheme from the endpoints. The public one may have the same only, as links are
        signed for it with the same `secure`; another is left in place, and refused with it."""
        if not isinstance(data, dict):
            return data
        data = dict(data)
        secure, endpoint = _split_scheme(data.get("endpoint"))
        if secure is not None:
            data |= {"endpoint": endpoint, "secure": secure}
        public_secure, public_endpoint = _split_scheme(data.get("public_endpoint"))
        is_secure = str(data.get("secure", False)).lower() in ("true", "1", "yes", "on", "t", "y")
        if public_secure is not None and public_secure == is_secure:
            data["public_endpoint"] = public_endpoint
        return data

    @model_validator(mode="after")
    def validate_keys(self) -> Self:
        if self.access_key and not self.secret_key.get_secret_value():
            raise ValueError("QCRD_S3_ACCESS_KEY is set without QCRD_S3_SECRET_KEY: set both")
        if not self.access_key and self.session_token.get_secret_value():
            raise ValueError("QCRD_S3_SESSION_TOKEN is set without QCRD_S3_ACCESS_KEY: set both")
        return self


class ModelSettings(EnvironmentSettings, env_prefix="QCRD_"):
    """Local base models: `<models_dir>/<name>/config.json`."""

    models_dir: Annotated[Path, AfterValidator(Path.expanduser)] = Path.home() / ".qcrd/models"
    model_aliases: dict[str, str] = {}
    """The base that a job trains which names another model, such as one of OpenAI's. The job says
    the base."""


class DiscriminatorAddress(EnvironmentSettings, env_prefix="QCRD_DISCRIMINATOR_"):
    """Where the judges are: asked by the trainer, the gateway and the server of students."""

    url: HttpUrl = "http://127.0.0.1:8090"


class RecoverySettings(EnvironmentSettings, env_prefix="QCRD_"):
    """How fast a worker's death is noticed. All workers of one installation need the same values.

    `heartbeat_seconds`: between two renewals of a worker's lease, which lasts `lease_seconds`.
    `reap_seconds`: between two passes of the reaper; by default a third of a lease, so that a job
    whose worker died is on a queue again within a minute. `resend_seconds`: after which a message
    that no worker has taken is sent again.
    """

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


Days = Annotated[float, Field(ge=0)]


class RetentionSettings(EnvironmentSettings, env_prefix="QCRD_KEEP_"):
    """How long what is no longer needed is kept, after the end of its job or since it was last
    used. None: for ever. What a living job, a published model or a study needs is kept anyway.
    """

    ended_hours: Annotated[float, Field(ge=0)] = 24.0
    """Ended jobs and their events in Redis; later they are read from the store."""
    events_days: Days | None = None
    checkpoints_days: Days = 7.0
    uploads_days: Days = 1.0
    judges_days: Days = 30.0
    generations_days: Days | None = None


class LivenessSettings(EnvironmentSettings, env_prefix="QCRD_"):
    """A worker touches `alive_file` every two seconds while it is connected to its broker. A probe
    that looks at the file costs nothing, and no other worker can answer for a stopped one."""

    alive_file: Path | None = None


class LogSettings(EnvironmentSettings, env_prefix="QCRD_LOG_"):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


def load_settings(factory: Callable[[], T]) -> T:
    """Build settings from the environment, or exit with one line that names each wrong variable.

    Values are left out, as they can be secrets. `SystemExit`, unlike other errors, also ends a
    Celery worker from within a signal's receiver.
    """
    try:
        return factory()
    except ValidationError as error:
        reason = "; ".join(_describe_errors(error))
    except SettingsError as error:
        reason = _describe_unreadable(error)
    raise SystemExit(f"invalid environment: {reason}")


def _describe_errors(error: ValidationError) -> Iterator[str]:
    settings = next((kind for kind in _list_settings() if kind.__name__ == error.title), None)
    for detail in error.errors(include_input=False, include_context=False, include_url=False):
        field, *rest = [str(part) for part in detail["loc"]] or [""]
        message = detail["msg"].removeprefix("Value error, ")
        variable = settings.get_variable(field) if settings and field else field
        yield ": ".join(filter(None, (".".join([variable, *rest]), message)))


def _describe_unreadable(error: SettingsError) -> str:
    """pydantic-settings names the field that is not JSON, but not its class; our own errors name
    the variable."""
    found = re.search(r'field "(\w+)"', str(error))
    if found is None:
        return str(error)
    names = [kind.get_variable(found[1]) for kind in _list_settings()]
    variable = next((name for name in names if name in os.environ), str(error))
    return f"{variable}: Input should be valid JSON"


def _list_settings(
    parent: type[EnvironmentSettings] = EnvironmentSettings,
) -> Iterator[type[EnvironmentSettings]]:
    for kind in parent.__subclasses__():
        yield kind
        yield from _list_settings(kind)
