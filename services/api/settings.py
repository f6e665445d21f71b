"""Where the gateway and its worker run: their environment, read once in `main` and `worker`."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


def _make_settings_config(prefix: str) -> SettingsConfigDict:
    """What is wrong is told without the value: it may be a key."""
    return SettingsConfigDict(
        env_prefix=prefix,
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        hide_input_in_errors=True,
    )


class ApiSettings(BaseSettings):
    """Without a key only processes of this machine may be served, so only loopback is bound."""

    model_config = SettingsConfigDict(
        env_prefix="QCRD_API_", frozen=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    keys: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    """Comma separated in the environment; each may do everything."""
    keys_file: Path | None = None
    """JSON of hashed keys with names, scopes and limits; read again when it changes."""

    @field_validator("keys", mode="before")
    @classmethod
    def split_comma_separated(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(key.strip() for key in value.split(",") if key.strip())
        return value

    @model_validator(mode="after")
    def require_keys_beyond_loopback(self) -> Self:
        if not self.keys and not self.keys_file and not is_loopback(self.host):
            raise ValueError(
                f"refusing to listen on {self.host} without API keys: "
                "set QCRD_API_KEYS or QCRD_API_KEYS_FILE, or QCRD_API_HOST=127.0.0.1"
            )
        return self


class TeacherConfig(BaseModel):
    """A teacher that jobs may name. A job never brings an address of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: Annotated[str, Field(pattern=r"^https?://")]
    api_key: SecretStr | None = None
    concurrency: Annotated[int, Field(ge=1, le=96)] = 32
    """Most requests in flight; the HTTP client under `huggingface_hub` has 100 connections."""
    prompt_price: Annotated[float | None, Field(ge=0)] = None
    completion_price: Annotated[float | None, Field(ge=0)] = None
    """Per million tokens, in `currency`; both or neither."""
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"

    @model_validator(mode="after")
    def require_both_prices(self) -> Self:
        if (self.prompt_price is None) != (self.completion_price is None):
            raise ValueError("give both prompt_price and completion_price, or neither")
        return self

    @property
    def has_prices(self) -> bool:
        return self.prompt_price is not None

    def compute_cost(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Of so many tokens; None for a teacher without prices."""
        if self.prompt_price is None or self.completion_price is None:
            return None
        return (self.prompt_price * prompt_tokens + self.completion_price * completion_tokens) / 1e6


class TeacherSettings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="QCRD_", frozen=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    teachers: dict[str, TeacherConfig] = {"default": TeacherConfig(url="http://127.0.0.1:8080")}


class FileSettings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix="QCRD_", frozen=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    max_file_bytes: Annotated[int, Field(ge=1)] = 1 << 30


class ConnectionLimitSettings(BaseSettings):
    """What one client may cost before it has asked for anything."""

    model_config = SettingsConfigDict(
        env_prefix="QCRD_API_", frozen=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    header_seconds: Annotated[float, Field(gt=0)] = 20
    """From the first byte of a request, or from connecting, to the end of its headers."""
    body_seconds: Annotated[float, Field(gt=0)] = 30
    """Of waiting for a body, in which at least `pace.FLOOR` bytes of it have to come."""
    connections: Annotated[int, Field(ge=1)] = 10_000
    """At once; one that follows events without any takes 30 KB."""


class StudentSettings(BaseSettings):
    """Where published students answer. `timeout` in seconds: how long that server may say nothing;
    loading a student counts."""

    model_config = _make_settings_config("QCRD_STUDENTS_")

    url: Annotated[str, Field(pattern=r"^https?://")] = "http://127.0.0.1:8070"
    timeout: Annotated[float, Field(gt=0)] = 300


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
