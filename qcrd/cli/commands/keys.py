"""`qcrd keys`: manage a gateway's key file, which contains only the keys' hashes."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from qcrd.cli.output.terminal import print_json, print_note
from qcrd.errors import Invalid
from qcrd.records.api_keys import ApiKey, ApiKeyFile, ApiKeyScope, hash_api_key
from qcrd.records.base import parse_record

KEY_PREFIX = "sk-qcrd-"
"""A prefix by which secret scanners recognise a committed key."""

DEFAULT_SCOPES = [ApiKeyScope.READ, ApiKeyScope.WRITE]

app = typer.Typer(no_args_is_help=True, help="Make and retire API keys of a gateway.")

KeyFileOption = Annotated[
    Path | None,
    typer.Option("--file", envvar="QCRD_API_KEYS_FILE", help="The gateway's QCRD_API_KEYS_FILE."),
]


def make_key(name: str, scopes: Sequence[ApiKeyScope], **limits: int | None) -> tuple[str, ApiKey]:
    """A new secret of 256 bits and its entry for the key file."""
    secret = KEY_PREFIX + secrets.token_urlsafe(32)
    entry = {"name": name, "sha256": hash_api_key(secret), "scopes": list(scopes), **limits}
    return secret, parse_record(ApiKey, entry)


@app.command("new")
def create_key(
    name: str,
    scope: Annotated[
        list[ApiKeyScope], typer.Option(help="Give it several times.")
    ] = DEFAULT_SCOPES,
    requests_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    running_jobs: Annotated[
        int | None, typer.Option(min=1, help="Most of its jobs that run at once.")
    ] = None,
    file: KeyFileOption = None,
) -> None:
    """Print a new key, once, and add its hash to the file, or print the entry without one."""
    limits = {"requests_per_minute": requests_per_minute, "running_jobs": running_jobs}
    secret, entry = make_key(name, scope, **limits)
    if file is None:
        print_json(entry.model_dump(mode="json", exclude_none=True))
        print_note("add this entry to the list `keys` of the gateway's QCRD_API_KEYS_FILE")
    else:
        key_file = _read_key_file(file) if file.exists() else ApiKeyFile(keys=())
        if any(key.name == name for key in key_file.keys):
            raise Invalid(f"{file} has a key named {name} already: `qcrd keys drop {name}` first")
        _write_key_file(file, ApiKeyFile(keys=(*key_file.keys, entry)))
        print_note(f"added to {file}; a gateway that reads it takes the key within a second")
    print_note("the key (shown only once):")
    typer.echo(secret)


@app.command("drop")
def delete_key(name: str, file: KeyFileOption = None) -> None:
    """Retire a key: a gateway that reads the file refuses it within a second."""
    if file is None:
        raise Invalid("name the file of keys: --file, or QCRD_API_KEYS_FILE")
    key_file = _read_key_file(file)
    remaining = tuple(key for key in key_file.keys if key.name != name)
    if len(remaining) == len(key_file.keys):
        names = ", ".join(key.name for key in remaining) or "none"
        raise Invalid(f"{file} has no key named {name}; there are: {names}")
    _write_key_file(file, ApiKeyFile(keys=remaining))
    print_note(f"{name} removed from {file}")


def _read_key_file(file: Path) -> ApiKeyFile:
    try:
        return ApiKeyFile.model_validate_json(file.read_bytes())
    except OSError as error:
        raise Invalid(f"{file} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        path = ".".join(str(part) for part in first["loc"]) or "it"
        raise Invalid(f"{file}: `{path}`: {first['msg']}") from None


def _write_key_file(file: Path, content: ApiKeyFile) -> None:
    """Write atomically, as a gateway may read at any moment, with mode 0600."""
    body = content.model_dump(mode="json", exclude_none=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.touch(mode=0o600)
    temporary.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    temporary.replace(file)
