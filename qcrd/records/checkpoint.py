"""The manifest of a training checkpoint."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from qcrd.records.base import StoredRecord


class CheckpointManifest(StoredRecord):
    """`run` is the digest of what is trained; `check` is that of all other fields but the version
    and `saved_at`, which is in seconds since the epoch."""

    run: str
    numbers: dict[str, Any]
    blobs: dict[str, str]
    """Name of a group of tensors, or `prepared`, -> SHA-256."""
    saved_at: float = 0.0
    check: str = ""

    @property
    def digest(self) -> str:
        body = self.model_dump(mode="json", exclude={"check", "saved_at", "schema_version"})
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
