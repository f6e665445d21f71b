"""Settings of the gateway and its worker, read from the environment in `main` and `worker`."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import NoDecode

from qcrd.runtime.keys import digest
from qcrd.runtime.settings import CommaSeparated, EnvironmentSettings, HttpUrl, Port
from services.api.teacher_prices import TokenPrices, find_prices


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


def require_header_text(place: str, text: str) -> str:
    """`ValueError` for what no HTTP header may have: nothing, a line break, other scripts."""
    if not text.strip():
        raise ValueError(f"{place} is empty or not set")
    if not (text.isascii() and text.isprintable()):
        raise ValueError(
            f"{place} has a character that no HTTP header may have, such as a line break"
        )
    return text


class TeacherConfig(BaseModel):
    """A teacher that jobs may name. A job cannot bring an address of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: HttpUrl
    api: Literal["tgi", "openai"] = "tgi"
    """The protocol at `url`: TGI's, or OpenAI's chat and text completions."""
    model: str | None = None
    """The model's name there; a server of the TGI protocol has one model and needs none."""
    api_key: SecretStr | None = None
    api_key_file: Path | None = None
    api_key_env: str | None = None
    """A file, or an environment variable, that has the key."""
    headers: dict[str, SecretStr] = {}
    query: dict[str, SecretStr] = {}
    """Sent with every request; Azure wants `api-version` in the query."""
    prompt: Literal["auto", "completion", "chat"] = "auto"
    """Whether it continues a text or replies in a chat; `auto`: by `api`."""
    context: Annotated[int | None, Field(ge=1)] = None
    """Tokens of prompt and answer together, where the server does not tell or tells too many."""
    concurrency: Annotated[int, Field(ge=1, le=96)] = 32
    """Most samples in flight; the HTTP client under `huggingface_hub` has 100 connections."""
    prompt_price: Annotated[float | None, Field(ge=0)] = None
    completion_price: Annotated[float | None, Field(ge=0)] = None
    """Per million tokens, in `currency`; both or neither. Without them those of the bundled list,
    in US dollars, for the providers that it has."""
    cached_prompt_price: Annotated[float | None, Field(ge=0)] = None
    """Of prompt tokens that the provider had read before; None: `prompt_price`."""
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    batch: bool = False
    """Whether jobs ask it by OpenAI's `/batches`, which takes up to a day, unless they say."""
    batch_factor: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Of the prices, for tokens that come by batch; OpenAI's."""

    @model_validator(mode="after")
    def require_openai_for_batches(self) -> Self:
        if self.batch and self.api != "openai":
            raise ValueError("a teacher with `batch` needs `api` openai: TGI has no batches")
        return self

    @model_validator(mode="after")
    def require_both_prices(self) -> Self:
        if (self.prompt_price is None) != (self.completion_price is None):
            raise ValueError("give both prompt_price and completion_price, or neither")
        if self.prompt_price is None and self.currency != "USD":
            raise ValueError("give the prices in `currency` too: the bundled ones are in USD")
        return self

    @model_validator(mode="after")
    def require_model(self) -> Self:
        if self.api == "openai" and not self.model:
            raise ValueError("a teacher with `api` openai needs `model`, its model's name there")
        return self

    @model_validator(mode="after")
    def require_readable_key(self) -> Self:
        """At start, so that no job finds out."""
        if sum(map(bool, (self.api_key, self.api_key_file, self.api_key_env))) > 1:
            raise ValueError("give one of api_key, api_key_file and api_key_env")
        self.read_key()
        for kind, values in (("headers", self.headers), ("query", self.query)):
            for name, value in values.items():
                require_header_text(f"{kind}.{name}", name + value.get_secret_value())
        return self

    def read_key(self) -> str | None:
        """The key as it is now: a mounted file changes when keys are rotated. `ValueError` where it
        is named and cannot be read."""
        if self.api_key:  # an empty one is none, as templates write it
            return require_header_text("api_key", self.api_key.get_secret_value())
        if self.api_key_env is not None:
            key = os.environ.get(self.api_key_env, "").strip()
            return require_header_text(f"api_key_env: the variable {self.api_key_env}", key)
        if self.api_key_file is not None:
            place = f"api_key_file: {self.api_key_file}"
            try:
                return require_header_text(place, self.api_key_file.read_text().strip())
            except OSError as error:
                raise ValueError(f"{place} cannot be read ({error.strerror})") from error
        return None

    def identify(self, name: str) -> str:
        """A digest of what decides how its server answers; a new key or price changes nothing."""
        return digest(name, self.api, self.url, self.model or "")

    @property
    def key_place(self) -> str:
        """Where its key stands, for messages; "" where none is given."""
        if self.api_key_file is not None:
            return f"`api_key_file` {self.api_key_file}"
        if self.api_key_env is not None:
            return f"`api_key_env` {self.api_key_env}"
        names = ", ".join(f"`headers.{name}`" for name in self.headers)
        return "`api_key`" if self.api_key else names

    @property
    def prices(self) -> TokenPrices | None:
        if self.prompt_price is None or self.completion_price is None:
            return find_prices(self.url, self.model) if self.model else None
        cached = self.cached_prompt_price
        return TokenPrices(
            self.prompt_price,
            self.completion_price,
            self.prompt_price if cached is None else cached,
            "the setting QCRD_TEACHERS",
        )

    def compute_cost(
        self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0
    ) -> float | None:
        """The cost of these tokens, `cached_tokens` of the prompt's; None where no price is
        known."""
        prices = self.prices
        if prices is None:
            return None
        return prices.compute_cost(prompt_tokens, completion_tokens, cached_tokens)


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


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
