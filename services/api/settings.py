"""Settings of the gateway and its worker, read from the environment in `main` and `worker`."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import NoDecode

from qcrd.runtime.settings import CommaSeparated, EnvironmentSettings, HttpUrl, Port


class ApiSettings(EnvironmentSettings, env_prefix="QCRD_API_"):
    """Address and keys of the gateway. Without a key it may bind loopback only."""

    host: str = "127.0.0.1"
    port: Port = 8000
    keys: Annotated[tuple[SecretStr, ...], NoDecode, CommaSeparated] = ()
    """Comma separated in the environment; each has all scopes."""
    keys_file: Path | None = None
    """JSON of hashed keys with names, scopes and limits; read again when it changes."""

    @model_validator(mode="after")
    def require_keys_beyond_loopback(self) -> Self:
        if not self.keys and not self.keys_file and not is_loopback(self.host):
            raise ValueError(
                f"refusing to listen on {self.host} without API keys: "
                "set QCRD_API_KEYS or QCRD_API_KEYS_FILE, or QCRD_API_HOST=127.0.0.1"
            )
        return self


class TeacherConfig(BaseModel):
    """A teacher that jobs may name. A job cannot bring an address of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: HttpUrl
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
        """The cost of these tokens; None for a teacher without prices."""
        if self.prompt_price is None or self.completion_price is None:
            return None
        return (self.prompt_price * prompt_tokens + self.completion_price * completion_tokens) / 1e6


class TeacherSettings(EnvironmentSettings, env_prefix="QCRD_"):
    teachers: dict[str, TeacherConfig] = Field(
        default_factory=lambda: {"default": TeacherConfig(url="http://127.0.0.1:8080")}
    )


class FileSettings(EnvironmentSettings, env_prefix="QCRD_"):
    max_file_bytes: Annotated[int, Field(ge=1)] = 1 << 30


class ConnectionLimitSettings(EnvironmentSettings, env_prefix="QCRD_API_"):
    """Limits on a client before its request is complete."""

    header_seconds: Annotated[float, Field(gt=0)] = 20
    """Seconds from the first byte of a request, or from connecting, to the end of its headers."""
    body_seconds: Annotated[float, Field(gt=0)] = 30
    """Seconds of waiting for a body in which at least `MIN_BYTES_PER_DEADLINE` have to come."""
    connections: Annotated[int, Field(ge=1)] = 10_000
    """Connections at once; an idle one that follows events takes 30 KB."""


class StudentSettings(EnvironmentSettings, env_prefix="QCRD_STUDENTS_"):
    """The server of published students. `timeout`: seconds without a byte from it; loading a
    student counts."""

    url: HttpUrl = "http://127.0.0.1:8070"
    timeout: Annotated[float, Field(gt=0)] = 300


class DiscriminatorClientSettings(EnvironmentSettings, env_prefix="QCRD_DISCRIMINATOR_"):
    """The discriminator's address; the trainer reads the same variable."""

    url: HttpUrl = "http://127.0.0.1:8090"


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
