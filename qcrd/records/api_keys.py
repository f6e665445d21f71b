"""API keys as stored in a server's key file: by hash, without the secret."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, Field

from qcrd.records.base import Record


class ApiKeyScope(StrEnum):
    """`encode` reads everything; `write` also creates objects and changes those that the same key
    created (models and rationale sets belong to their job's key); `admin` changes all objects."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


class ApiKey(Record, extra="forbid"):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: tuple[ApiKeyScope, ...] = (ApiKeyScope.READ, ApiKeyScope.WRITE)
    requests_per_minute: Annotated[int | None, Field(ge=1)] = None
    running_jobs: Annotated[int | None, Field(ge=1)] = None
    """Most jobs of this key that run at once; further ones stay queued."""
    expires_at: AwareDatetime | None = None

    def has_scope(self, scope: ApiKeyScope) -> bool:
        return scope in self.scopes or ApiKeyScope.ADMIN in self.scopes

    def can_modify(self, owner: str) -> bool:
        """Whether this key may change what `owner` created."""
        return self.name == owner or ApiKeyScope.ADMIN in self.scopes

    def is_expired(self, now: float) -> bool:
        return self.expires_at is not None and self.expires_at.timestamp() <= now


class ApiKeyFile(Record, extra="forbid"):
    keys: tuple[ApiKey, ...]


def hash_api_key(secret: str) -> str:
    """SHA-256 suffices: a key is 256 random bits, so a slow hash would add no protection."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
