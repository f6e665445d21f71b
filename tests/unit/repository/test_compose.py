"""The compose files, without an engine: nothing has to be set, and no secret is in any file."""

from __future__ import annotations

import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from qcrd.runtime.settings import RedisSettings, StoreSettings, load_settings
from qcrd.runtime.storage.bucket_setup import StoreAdminSettings
from services.api.settings import ApiSettings

ROOT = Path(__file__).parents[3]
FILES = sorted(ROOT.glob("compose*.yaml"))
SECRET = re.compile(r"SECRET|PASSWORD|TOKEN|API_KEYS?$|ACCESS_KEY")
REQUIRED = re.compile(r"(?<!\$)\$\{[A-Za-z_]+:?\?")


class Loader(yaml.SafeLoader):
    """Compose's own tags: what replaces and what resets is read as what it holds."""


def _read_tagged(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.ScalarNode)
    return loader.construct_scalar(node)


yaml.add_multi_constructor("!", _read_tagged, Loader)


def compose(path: Path) -> Any:
    return yaml.load(path.read_text(), Loader)


def environments(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, service in compose(path)["services"].items():
        given = service.get("environment") or {}
        assert isinstance(given, dict), f"{path.name}: {name}: write it as a mapping"
        yield name, given


def find_faults(path: Path) -> list[str]:
    """Variables that must be set, and secrets with a value."""
    faults = [f"requires {found.group()}" for found in REQUIRED.finditer(path.read_text())]
    for service, given in environments(path):
        for name, value in given.items():
            is_file = name.endswith("_FILE") or name.endswith("_DIR")
            if SECRET.search(name) and not is_file and value not in (None, f"${{{name}:-}}"):
                faults.append(f"{service}: {name} has the value {value}")
    return faults


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_has_to_be_set_and_no_secret_has_a_default(path: Path) -> None:
    assert find_faults(path) == []


def test_the_check_finds_both(tmp_path: Path) -> None:
    path = tmp_path / "compose.yaml"
    path.write_text(
        "services:\n  a:\n    environment:\n      K: ${K:?set it}\n      S3_SECRET_KEY: ${X:-abc}\n"
        "      MINIO_ROOT_PASSWORD: abc\n      OPEN_TOKEN:\n"
    )
    assert len(find_faults(path)) == 3


def make_secrets(folder: Path, status: int = 0, **given: str) -> str:
    """Run the compose file's own script, with `folder` in the place of its volumes."""
    (command,) = compose(ROOT / "compose.yaml")["services"]["secrets"]["command"][2:]
    script = command.replace("$$", "$").replace("/secrets/", f"{folder}/")
    for name in ("api", "s3", "s3-admin", "redis"):
        (folder / name).mkdir(exist_ok=True)
    done = subprocess.run(
        ["sh", "-euc", script],
        env={"PATH": os.environ["PATH"], **given},
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in folder.glob("*/*")}


def test_secrets_are_made_once_and_say_how_to_read_the_key(tmp_path: Path) -> None:
    assert "docker compose exec api qcrd key" in make_secrets(tmp_path)
    made = contents(tmp_path)
    admin = "s3-admin/QCRD_S3_ADMIN_SECRET_KEY"
    names = ("api/QCRD_API_KEYS", "s3/QCRD_S3_SECRET_KEY", admin, "redis/password")
    keys = [made[name] for name in names]
    assert all(re.fullmatch("[0-9a-f]{48}", key) for key in keys)
    assert len(set(keys)) == 4
    assert made["redis/redis.conf"] == f"requirepass {made['redis/password']}\n"
    for key in ("api/QCRD_API_KEYS", "s3/QCRD_S3_SECRET_KEY", "redis/password"):
        # Containers run as users of their own; which of them see it, the volumes decide.
        assert stat.S_IMODE((tmp_path / key).stat().st_mode) == 0o444
    make_secrets(tmp_path)
    assert contents(tmp_path) == made


def test_a_key_that_is_given_takes_the_place_of_the_one_that_was_made(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    before = contents(tmp_path)
    make_secrets(tmp_path, QCRD_API_KEY="my-own,second")
    after = contents(tmp_path)
    assert after.pop("api/QCRD_API_KEYS") == "my-own,second"
    before.pop("api/QCRD_API_KEYS")
    assert after == before
    said = make_secrets(tmp_path, 1, QCRD_REDIS_PASSWORD="a b'@/")
    assert "password: letters, digits and the marks" in said


def test_the_services_read_what_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_secrets(tmp_path)
    made = contents(tmp_path)
    folders = ":".join(str(tmp_path / name) for name in ("s3", "s3-admin", "redis", "api"))
    monkeypatch.setenv("QCRD_SECRETS_DIR", folders)
    assert StoreSettings().access_key == made["s3/QCRD_S3_ACCESS_KEY"]
    assert StoreSettings().secret_key.get_secret_value() == made["s3/QCRD_S3_SECRET_KEY"]
    admin = StoreAdminSettings()
    assert (
        admin.access_key == made["s3-admin/QCRD_S3_ADMIN_ACCESS_KEY"] != StoreSettings().access_key
    )
    assert RedisSettings().url == f"redis://:{made['redis/password']}@redis:6379/0"
    assert [key.get_secret_value() for key in ApiSettings().keys] == [made["api/QCRD_API_KEYS"]]
    monkeypatch.setenv("QCRD_S3_ACCESS_KEY", "set")
    assert StoreSettings().access_key == "set"


def test_a_folder_of_secrets_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QCRD_SECRETS_DIR", str(tmp_path / "absent"))
    with pytest.raises(SystemExit, match="invalid environment: QCRD_SECRETS_DIR: there is no"):
        load_settings(StoreSettings)
