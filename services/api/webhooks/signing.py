"""Webhooks: whom jobs may have told of their end, and what is sent, as Standard Webhooks asks.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md; the
body has the shape of OpenAI's, so that the `openai` client's `webhooks.unwrap` reads it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from qcrd.errors import Invalid
from qcrd.records.webhooks import WebhookDelivery

PORTS = {"https": 443, "http": 80}
PREFIX = "whsec_"
SECRET_BYTES = range(24, 65)
"""Standard Webhooks, "Signature scheme": 24 to 64 random bytes."""


class WebhookSettings(BaseSettings):
    """Nobody is told anything unless hosts are listed."""

    # A secret that is refused must not be in the message.
    model_config = SettingsConfigDict(
        env_prefix="QCRD_WEBHOOK_", frozen=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """`host[:port]` is reached by https; one that is to be reached without says `http://`."""
    secret: SecretStr | None = None
    timeout: Annotated[float, Field(gt=0, le=50)] = 15.0
    """Seconds in which a receiver has to answer."""

    @field_validator("hosts", mode="before")
    @classmethod
    def split_at_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(host.strip() for host in value.split(",") if host.strip())
        return value

    @field_validator("hosts")
    @classmethod
    def are_origins(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if _listed(host) is None:
                raise ValueError(f"{host!r} is neither `host`, `host:port` nor `http://host:port`")
        return hosts

    @field_validator("secret")
    @classmethod
    def is_a_key(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and len(_key(secret)) not in SECRET_BYTES:
            raise ValueError(f"it must be {PREFIX} and the base64 of 24 to 64 random bytes")
        return secret

    @model_validator(mode="after")
    def hosts_need_a_secret(self) -> Self:
        if self.hosts and self.secret is None:
            raise ValueError("QCRD_WEBHOOK_HOSTS is set, so QCRD_WEBHOOK_SECRET has to be")
        return self


def _key(secret: SecretStr) -> bytes:
    """The bytes to sign with; none for what is not such a secret."""
    prefix, encoded = secret.get_secret_value()[: len(PREFIX)], secret.get_secret_value()[6:]
    try:
        return base64.b64decode(encoded, validate=True) if prefix == PREFIX else b""
    except (binascii.Error, ValueError):
        return b""


Origin = tuple[str, str, int]
"""Scheme, host and port."""


def _origin(url: str) -> Origin | None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in PORTS or not parts.hostname:
        return None
    return parts.scheme, parts.hostname, PORTS[parts.scheme] if port is None else port


def _listed(host: str) -> Origin | None:
    url = host if "://" in host else f"https://{host}"
    plain = url.removesuffix("/").count("/") == 2 and "@" not in url and "?" not in url
    return _origin(url) if plain else None


def check_webhook(url: str | None, settings: WebhookSettings) -> None:
    """`Invalid` unless the server may send to `url`; no url is fine."""
    if url is None:
        return
    if not settings.hosts:
        raise _refused("this server sends none: leave it out, or have QCRD_WEBHOOK_HOSTS set")
    origin = _origin(url)
    if origin is None or not url.isascii() or not url.isprintable() or " " in url:
        raise _refused("it must be a URL such as https://example.com/hook")
    if "@" in urlsplit(url).netloc:
        raise _refused("it must not carry a user name or a password; sign in by the signature")
    if origin not in [_listed(host) for host in settings.hosts]:
        scheme, host, port = origin
        raise _refused(
            f"this server does not send to {scheme}://{host[:200]}:{port}: "
            "have it listed in QCRD_WEBHOOK_HOSTS"
        )


def _refused(why: str) -> Invalid:
    return Invalid(f"`webhook`: {why}", param="webhook", code="webhook_refused")


def host_of(url: str) -> str:
    """What may be told of a URL, whose path can be a secret of the receiver's."""
    return urlsplit(url).hostname or "?"


def body(delivery: WebhookDelivery) -> bytes:
    told = {
        "id": delivery.id,
        "object": "event",
        "created_at": int(delivery.created_at),
        "type": delivery.type,
        "data": {"id": delivery.job_id},
    }
    return json.dumps(told, separators=(",", ":")).encode()


def headers(delivery: WebhookDelivery, now: float, secret: SecretStr) -> dict[str, str]:
    """Those of one attempt at `now`: the signature is over the id, the time and the body."""
    stamp = str(int(now))
    signed = b".".join((delivery.id.encode(), stamp.encode(), body(delivery)))
    signature = base64.b64encode(hmac.digest(_key(secret), signed, hashlib.sha256)).decode()
    return {
        "content-type": "application/json",
        "webhook-id": delivery.id,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{signature}",
    }
