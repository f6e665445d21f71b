"""Publishing a folder on the model hub: one commit with all of its files, or none."""

from __future__ import annotations

import os
from pathlib import Path

import httpx2

from qcrd.errors import Forbidden, Invalid, QcrdError, Unauthorized
from qcrd.runtime.storage.hub import make_unreachable_error

MAX_REASON_CHARS = 300


def upload_model_folder(
    folder: Path, repository: str, *, message: str, private: bool, endpoint: str | None = None
) -> str:
    """Make the model repository where there is none, and commit the folder's files to it; the
    commit's address. The token is HF_TOKEN, or that of `hf auth login`; the hub is HF_ENDPOINT.

    `Invalid` for a name that the hub does not allow or a card that it refuses, `Unauthorized`,
    `Forbidden`, `Transient`.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError as error:
        raise Invalid(
            "models are pushed by huggingface_hub, which is not installed: pip install 'qcrd[hub]'"
        ) from error
    api = HfApi(endpoint)
    disable_progress_bars()
    try:
        api.create_repo(repository, private=private or None, exist_ok=True)
        commit = api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
    except (httpx2.HTTPError, OSError, ValueError, RuntimeError) as error:
        raise _classify(repository, error) from error
    return str(commit.commit_url)


def _classify(repository: str, error: Exception) -> QcrdError:
    from huggingface_hub import errors

    # Large files go by threads of the client, which wrap what befell them.
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    reason = " ".join(str(error).split())[:MAX_REASON_CHARS]
    if isinstance(error, errors.HFValidationError):
        return Invalid(f"REPO: {repository!r} is not OWNER/NAME: {reason}")
    if isinstance(error, errors.HfHubHTTPError):
        match error.response.status_code:
            case 401:
                told = "it knows no token" if "HF_TOKEN" not in os.environ else "not this token"
                return Unauthorized(f"REPO: the hub refuses ({told}): set HF_TOKEN: {reason}")
            case 403:
                return Forbidden(f"REPO: HF_TOKEN may not write to {repository}: {reason}")
            case status if status < 500 and status != 429:
                return Invalid(f"REPO: the hub refuses {repository}: {reason}")
    if isinstance(error, ValueError) and not isinstance(error, httpx2.HTTPError):
        return Invalid(f"REPO: the hub refuses {repository}: {reason}")
    return make_unreachable_error(reason)
