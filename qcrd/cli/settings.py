"""The environment of the `qcrd` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, SecretStr

from qcrd.runtime.settings import EnvironmentSettings


def _make_absolute(path: Path | None) -> Path | None:
    return path and path.expanduser().absolute()


class CliSettings(EnvironmentSettings, env_prefix="QCRD_", validate_default=True):
    """`home` holds all that the embedded stack keeps; `api_url` None means that stack's gateway."""

    home: Annotated[Path, AfterValidator(_make_absolute)] = Path("~/.qcrd")
    api_url: str | None = None
    api_key: SecretStr | None = None
    models_dir: Annotated[Path | None, AfterValidator(_make_absolute)] = None
    procfile: Annotated[Path | None, AfterValidator(_make_absolute)] = None
    """Another set of parts for `qcrd up` than the Procfile that comes with the package."""
