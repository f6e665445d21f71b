"""API keys: from the environment and from a file of hashes that is reloaded when it changes.

A key is 256 random bits, so its SHA-256 is as safe as a slow hash: a guess is hopeless. The
file holds hashes only, and is read again when it changes.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import SecretStr, ValidationError

from qcrd.records.api_keys import ApiKey, ApiKeyFile, ApiKeyScope, hash_api_key

log = logging.getLogger(__name__)

RELOAD_CHECK_SECONDS = 1.0
"""Seconds between two checks whether the file has changed."""
RESERVED_NAMES = re.compile(r"anonymous|key-[0-9]+")
"""Owner of the jobs of a gateway without keys, and of the keys in its environment."""

ANONYMOUS_KEY = ApiKey(name="anonymous", sha256="0" * 64, scopes=tuple(ApiKeyScope))
"""The caller of all requests on a gateway without keys, which listens on loopback only."""


class ApiKeyStore:
    """The keys of the environment and those of a file, which may change while this runs."""

    def __init__(
        self,
        env_keys: Sequence[SecretStr] = (),
        file: Path | None = None,
        *,
        reload_check_seconds: float = RELOAD_CHECK_SECONDS,
    ) -> None:
        """`ValueError`, naming what is wrong with it, for a file that cannot be used."""
        self._env_keys = tuple(
            ApiKey(
                name=f"key-{number}",
                sha256=hash_api_key(key.get_secret_value()),
                scopes=(*ApiKeyScope,),
            )
            for number, key in enumerate(env_keys, 1)
        )
        self._file = file
        self._reload_check_seconds = reload_check_seconds
        self._lock = threading.Lock()
        self._checked_at = time.monotonic()
        self._file_stamp = _get_file_stamp(file)
        self._file_keys = read_keys(file) if file else ()

    @property
    def auth_required(self) -> bool:
        """Whether a key is required. A file without any keys left still requires one."""
        return bool(self._env_keys) or self._file is not None

    @property
    def is_empty(self) -> bool:
        return not self._env_keys and not self._file_keys

    def find(self, secret: str) -> ApiKey | None:
        """The key with this secret; None for an unknown or expired one."""
        self._reload_if_changed()
        secret_hash, match = hash_api_key(secret), None
        # Every hash is compared, each in constant time: timing reveals nothing about any key.
        for key in (*self._env_keys, *self._file_keys):
            if hmac.compare_digest(secret_hash, key.sha256):
                match = key
        return None if match is None or match.is_expired(time.time()) else match

    def _reload_if_changed(self) -> None:
        """Reload the file if it has changed; keep the current keys if it is broken."""
        if self._file is None or (time.monotonic() - self._checked_at < self._reload_check_seconds):
            return
        with self._lock:
            self._checked_at = time.monotonic()
            stamp = _get_file_stamp(self._file)
            if stamp == self._file_stamp:
                return
            self._file_stamp = stamp
            try:
                self._file_keys = read_keys(self._file)
            except ValueError as error:
                log.error("API key file not reloaded, the previous keys stay valid: %s", error)
            else:
                log.info("API keys reloaded: %s", ", ".join(key.name for key in self._file_keys))


def read_keys(file: Path) -> tuple[ApiKey, ...]:
    try:
        keys = ApiKeyFile.model_validate(json.loads(file.read_text(encoding="utf-8"))).keys
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{file}: `{path}`: {first['msg']}") from None
    except ValueError:
        # A broken file's text is left out: it may be a key, put there by mistake.
        raise ValueError(f"{file} is not JSON in UTF-8") from None
    for key in keys:
        if RESERVED_NAMES.fullmatch(key.name):
            raise ValueError(f"{file}: `name` {key.name} is one that the gateway gives itself")
    for field in ("name", "sha256"):
        values = [getattr(key, field) for key in keys]
        if len(set(values)) < len(values):
            raise ValueError(f"{file}: two keys have the same `{field}`")
    return keys


def _get_file_stamp(file: Path | None) -> tuple[int, int, int] | None:
    """Changes when the file does. A mounted Kubernetes secret is a link that gets a new target."""
    try:
        stat = file.stat() if file else None
    except OSError:
        return None
    return (stat.st_ino, stat.st_mtime_ns, stat.st_size) if stat else None
