"""The model hub: which models it has, and their files.

Every error says whether asking again can help. `NotFound`: the hub has answered that there is no
such model, or none that this machine may read. `Transient`: anything else, from no network to a
proxy that answers in the hub's place.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2

from qcrd.errors import NotFound, QcrdError, Transient
from qcrd.runtime.daemon_call import start_daemon_call

MAX_REASON_CHARS = 200
MAX_LOOKUPS = 16
_lookups = threading.BoundedSemaphore(MAX_LOOKUPS)
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class ModelHub:
    """The hub at `endpoint`, by default at HF_ENDPOINT. `timeout`: seconds that a hub may be silent
    in a look-up, which a client waits for, and `total_timeout` those that it may take in all,
    redirects and retries included; a download waits as long for each next piece of it as
    HF_HUB_DOWNLOAD_TIMEOUT says. `cache_dir`: where downloads are kept, by default under
    HF_HOME."""

    endpoint: str | None = None
    timeout: float = 5.0
    total_timeout: float = 15.0
    cache_dir: Path | None = None

    def fetch_config(self, name: str) -> Mapping[str, Any]:
        """The config.json of model `name` as far as the hub tells it, {} where it does not.

        `NotFound`, `Transient`. A gated model has been found: its config needs no license.
        """
        from huggingface_hub import HfApi
        from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled

        with _translate_errors(name):
            try:
                found = call_within(
                    self.total_timeout,
                    lambda: HfApi(self.endpoint).model_info(name, timeout=self.timeout).config,
                )
            except GatedRepoError:
                return {}
            except OfflineModeIsEnabled as error:
                raise make_unreachable_error("HF_HUB_OFFLINE is set") from error
            if not isinstance(found, dict | None):
                raise TypeError(f"a config that is a {type(found).__name__}")
            return found or {}

    def download_snapshot(
        self, name: str, patterns: Sequence[str], *, revision: str | None = None
    ) -> Path:
        """The folder of model `name`, its files that match `patterns` in it: from the local cache
        where the hub is away. `NotFound`, `Transient`."""
        from huggingface_hub import snapshot_download

        with _translate_errors(name):
            _limit_waiting()
            folder = snapshot_download(
                name,
                revision=revision,
                allow_patterns=list(patterns),
                endpoint=self.endpoint,
                cache_dir=self.cache_dir,
            )
            return Path(folder)

    def is_reachable(self) -> bool:
        """Whether the hub answers this machine, and not a proxy in its place."""
        from huggingface_hub import constants, get_session

        url = f"{self.endpoint or constants.ENDPOINT}/api/models"
        try:
            response = get_session().get(url, params={"limit": 1}, timeout=self.timeout)
            return response.status_code == 200 and isinstance(response.json(), list)
        except (httpx2.HTTPError, OSError, ValueError):
            return False


def call_within(seconds: float, call: Callable[[], ResultT]) -> ResultT:
    """What `call` returns or raises; `Transient` when it takes longer, as each read of a hub that
    drips is in time. What is late goes on in a thread of its own, of which there are not many."""
    if not _lookups.acquire(blocking=False):
        raise make_unreachable_error(f"{MAX_LOOKUPS} look-ups are waiting for it already")
    outcome = start_daemon_call(call, name="hub")
    outcome.add_done_callback(lambda _: _lookups.release())
    if not wait([outcome], timeout=seconds).done:
        raise make_unreachable_error(f"no whole answer within {seconds:.0f} s")
    return outcome.result()


def make_unreachable_error(reason: str) -> Transient:
    return Transient(f"the hub cannot be reached ({reason})", code="hub_unavailable")


def _limit_waiting() -> None:
    """Let no request of this process wait for a silent hub for ever, as its client's default does:
    HF_HUB_DOWNLOAD_TIMEOUT, in seconds, is the longest silence."""
    from huggingface_hub import get_session

    hooks = get_session().event_hooks["request"]  # of the session that all its calls share
    if _limit_request not in hooks:
        hooks.append(_limit_request)


def _limit_request(request: httpx2.Request) -> None:
    from huggingface_hub import constants

    asked = request.extensions.get("timeout", {})  # by phase; None is no limit
    phases = ("connect", "read", "write", "pool")
    limit = constants.HF_HUB_DOWNLOAD_TIMEOUT
    request.extensions["timeout"] = {phase: asked.get(phase) or limit for phase in phases}


@contextmanager
def _translate_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (httpx2.HTTPError, OSError, ValueError) as error:
        raise _classify(name, error) from error
    except (AttributeError, LookupError, TypeError) as error:
        # The hub's client takes any JSON for the hub's: this is another server's.
        reason = f"what answers in its place describes no model: {type(error).__name__} {error}"
        raise make_unreachable_error(reason[:MAX_REASON_CHARS]) from error


def _classify(name: str, error: Exception) -> QcrdError:
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # it says why the hub was of no use when the cache was neither
    reasons: list[tuple[type[Exception], str]] = [
        (errors.GatedRepoError, "it is gated: accept its terms on the hub, then set HF_TOKEN"),
        (
            errors.RepositoryNotFoundError,
            "the hub has none of this name; for a private one set HF_TOKEN",
        ),
        (errors.RevisionNotFoundError, "the hub has no such revision of it"),
        (errors.DisabledRepoError, "the hub has disabled it"),
        (errors.EntryNotFoundError, "the hub has not all of its files"),
        (errors.HFValidationError, "the hub allows no such name"),
        (errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE is set, so the hub is not asked"),
    ]
    for kind, reason in reasons:
        if isinstance(error, kind) and not _is_someone_elses(error):
            return NotFound(reason, param="model", code="model_not_found")
    shown = " ".join(f"{type(error).__name__}: {error}".split())[:MAX_REASON_CHARS]
    return make_unreachable_error(shown)


def _is_someone_elses(error: Exception) -> bool:
    """Whether a proxy answered: the hub's own refusals carry their code in a header."""
    from huggingface_hub.errors import HfHubHTTPError

    if not isinstance(error, HfHubHTTPError):
        return False
    headers = error.response.headers
    return "x-error-code" not in headers and "x-error-message" not in headers
