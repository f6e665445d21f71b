"""Webhooks of finished jobs: their allowed hosts and signed payloads, as Standard Webhooks.

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
from pydantic_settings import NoDecode

from qcrd.errors import Invalid
from qcrd.records.webhooks import WebhookDelivery
from qcrd.runtime.settings import CommaSeparated, EnvironmentSettings

DEFAULT_PORTS = {"https": 443, "http": 80}
SECRET_PREFIX = "whsec_"
SECRET_LENGTHS = range(24, 65)
"""Standard Webhooks, "Signature scheme": 24 to 64 random bytes."""


class WebhookSettings(EnvironmentSettings, env_prefix="QCRD_WEBHOOK_"):
    """Webhooks are off unless hosts are listed."""

    # The message of an invalid secret must not contain it.
    hosts: Annotated[tuple[str, ...], NoDecode, CommaSeparated] = ()
    """`host[:port]` is reached by https, `http://host[:port]` without TLS."""
    secret: SecretStr | None = None
    timeout: Annotated[float, Field(gt=0, le=50)] = 15.0
    """Seconds within which a receiver must respond."""

    @field_validator("hosts")
    @classmethod
    def check_hosts_are_origins(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if _parse_allowed_host(host) is None:
                raise ValueError(f"{host!r} is neither `host`, `host:port` nor `http://host:port`")
        return hosts

    @field_validator("secret")
    @classmethod
    def check_secret_length(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and len(_decode_secret(secret)) not in SECRET_LENGTHS:
            raise ValueError(f"it must be {SECRET_PREFIX} and the base64 of 24 to 64 random bytes")
        return secret

    @model_validator(mode="after")
    def require_secret_with_hosts(self) -> Self:
        if self.hosts and self.secret is None:
            raise ValueError("QCRD_WEBHOOK_HOSTS is set, so QCRD_WEBHOOK_SECRET has to be")
        return self


def _decode_secret(secret: SecretStr) -> bytes:
    """The bytes to sign with; none for an invalid secret."""
    prefix, encoded = secret.get_secret_value()[: len(SECRET_PREFIX)], secret.get_secret_value()[6:]
    try:
        return base64.b64decode(encoded, validate=True) if prefix == SECRET_PREFIX else b""
    except (binascii.Error, ValueError):
        return b""


Origin = tuple[str, str, int]
"""Scheme, host and port."""


def _parse_origin(url: str) -> Origin | None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        return None
    return parts.scheme, parts.hostname, DEFAULT_PORTS[parts.scheme] if port is None else port


def _parse_allowed_host(host: str) -> Origin | None:
    url = host if "://" in host else f"https://{host}"
    has_only_origin = url.removesuffix("/").count("/") == 2 and "@" not in url and "?" not in url
    return _parse_origin(url) if has_only_origin else None


def check_webhook_url(url: str | None, settings: WebhookSettings) -> None:
    """`Invalid` unless the server may send to `url`; no url is fine."""
    if url is None:
        return
    if not settings.hosts:
        raise _make_webhook_error(
            "this server sends none: leave it out, or have QCRD_WEBHOOK_HOSTS set"
        )
    origin = _parse_origin(url)
    if origin is None or not url.isascii() or not url.isprintable() or " " in url:
        raise _make_webhook_error("it must be a URL such as https://example.com/hook")
    if "@" in urlsplit(url).netloc:
        raise _make_webhook_error(
            "it must not carry a user name or a password; sign in by the signature"
        )
    if origin not in [_parse_allowed_host(host) for host in settings.hosts]:
        scheme, host, port = origin
        raise _make_webhook_error(
            f"this server does not send to {scheme}://{host[:200]}:{port}: "
            "have it listed in QCRD_WEBHOOK_HOSTS"
        )


def _make_webhook_error(reason: str) -> Invalid:
    return Invalid(f"`webhook`: {reason}", param="webhook", code="webhook_refused")


def get_host(url: str) -> str:
    """The host, the only part of a URL to show: its path can contain a secret."""
    return urlsplit(url).hostname or "?"


def build_payload(delivery: WebhookDelivery) -> bytes:
    payload = {
        "id": delivery.id,
        "object": "event",
        "created_at": int(delivery.created_at),
        "type": delivery.type,
        "data": {"id": delivery.job_id},
    }
    return json.dumps(payload, separators=(",", ":")).encode()


def build_signed_headers(
    delivery: WebhookDelivery, now: float, secret: SecretStr
) -> dict[str, str]:
    """Headers of one attempt at `now`; the signature covers the id, the time and the body."""
    timestamp = str(int(now))
    signed_content = b".".join((delivery.id.encode(), timestamp.encode(), build_payload(delivery)))
    signature = base64.b64encode(
        hmac.digest(_decode_secret(secret), signed_content, hashlib.sha256)
    ).decode()
    return {
        "content-type": "application/json",
        "webhook-id": delivery.id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
    }
