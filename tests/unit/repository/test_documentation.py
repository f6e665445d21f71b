"""Documentation is tested: every setting is described, every example is a valid spec."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema_rs
import pytest
import yaml
from pydantic_settings import BaseSettings

from qcrd.cli.settings import CliSettings
from qcrd.method.training.schedule import compute_untrained_share
from qcrd.records.base import parse_record
from qcrd.records.specs.spec import JobSpec
from qcrd.records.specs.spec_schema import (
    build_spec_schema,
    dump_spec_schema,
    read_spec_schema,
    render_reference,
)
from qcrd.records.specs.study_spec import StudySpec
from qcrd.runtime.settings import (
    DiscriminatorAddress,
    LogSettings,
    ModelSettings,
    RecoverySettings,
    RedisSettings,
    RetentionSettings,
    StoreSettings,
)
from qcrd.runtime.storage.bucket_setup import StoreAdminSettings
from services.api.settings import (
    ApiSettings,
    ConnectionLimitSettings,
    FileSettings,
    StudentSettings,
    TeacherSettings,
)
from services.api.webhooks.signing import WebhookSettings
from services.discriminator.settings import DiscriminatorSettings
from services.teacher.settings import EngineSettings, ServerSettings
from services.teacher.students.settings import StudentsSettings
from services.trainer.settings import KubeflowSettings, NodeSettings, TrainerSettings

ROOT = Path(__file__).parents[3]
SETTINGS: tuple[type[BaseSettings], ...] = (
    RedisSettings,
    StoreSettings,
    StoreAdminSettings,
    ModelSettings,
    LogSettings,
    RecoverySettings,
    RetentionSettings,
    ApiSettings,
    FileSettings,
    ConnectionLimitSettings,
    TeacherSettings,
    DiscriminatorAddress,
    WebhookSettings,
    StudentSettings,
    StudentsSettings,
    DiscriminatorSettings,
    TrainerSettings,
    KubeflowSettings,
    NodeSettings,
    ServerSettings,
    EngineSettings,
    CliSettings,
)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: s.__name__)
def test_every_setting_is_in_the_table(settings: type[BaseSettings]) -> None:
    described = (ROOT / "docs/configuration.md").read_text()
    prefix = settings.model_config.get("env_prefix", "")
    for name, field in settings.model_fields.items():
        variable = field.validation_alias or f"{prefix}{name}".upper()
        assert f"`{variable}`" in described


SPECS = [*sorted((ROOT / "examples").glob("*.yaml")), ROOT / "tests/e2e/small.yaml"]


def read_job(path: Path) -> JobSpec:
    body = yaml.safe_load(path.read_text())
    return parse_record(StudySpec, body).job if "job" in body else parse_record(JobSpec, body)


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.name)
def test_every_example_is_a_valid_spec(path: Path) -> None:
    assert read_job(path).training_file.endswith(".jsonl")


WITH_NEGATIVES = [path for path in SPECS[:-1] if path.name != "demo.yaml"]


@pytest.mark.parametrize("path", WITH_NEGATIVES, ids=lambda path: path.name)
@pytest.mark.parametrize("questions", [140, 720])
def test_the_examples_learn_from_negatives_of_a_trained_student(path: Path, questions: int) -> None:
    """So many questions they train on."""
    share = compute_untrained_share("qcrd", read_job(path).settings, questions)
    assert share is not None
    assert share < 0.35


def test_the_demo_questions_are_what_the_script_writes() -> None:
    spec = importlib.util.spec_from_file_location("questions", ROOT / "examples/demo/questions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, rows in zip(("train", "test"), module.build(0, 12, 24), strict=True):
        lines = (ROOT / f"examples/demo/{name}.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == rows


def test_what_the_architecture_page_names_is_there() -> None:
    """Each `folder/module.py: name` is a module of the repository that has that name."""
    page = (ROOT / "docs/architecture.md").read_text()
    modules = [p for folder in ("qcrd", "services") for p in (ROOT / folder).rglob("*.py")]
    named = re.findall(r"`([\w/]+\.py)(?:: (\w+)(?:\.\w+)?)?`", page)
    assert len(named) > 30
    for path, name in named:
        found = [m for m in modules if str(m).endswith(f"/{path}")]
        assert found, path
        assert any(re.search(rf"\b{name}\b", m.read_text()) for m in found), (path, name)


def test_readme_commands_are_targets_of_the_makefile() -> None:
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", readme, re.MULTILINE))
    assert {"demo", "test"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.M), target


@pytest.mark.parametrize(
    ("service", "absent"),
    [
        ("services.api.main", ("torch", "transformers", "scipy")),
        ("services.api.worker", ("torch", "transformers", "scipy")),
        ("services.discriminator.main", ("peft", "scipy.stats", "fastapi.testclient", "xllamacpp")),
        ("services.trainer.worker", ("torch", "fastapi")),
    ],
)
def test_a_service_needs_nothing_that_its_image_lacks(
    service: str, absent: tuple[str, ...]
) -> None:
    """Or what takes it long to start: the trainer's worker starts torch in another process."""
    asked = f"import sys, {service}; print([m for m in {absent!r} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True)
    assert shown.stdout.strip().splitlines()[-1:] == ["[]"], shown.stderr[-2000:]


def test_the_page_and_the_schema_of_specs_are_what_the_records_say() -> None:
    """Written by `qcrd spec reference` and `qcrd spec schema`."""
    assert (ROOT / "docs/spec.md").read_text() == render_reference()
    assert read_spec_schema() == dump_spec_schema()


def test_every_field_of_a_spec_says_what_it_is() -> None:
    schema = build_spec_schema()
    for name in ("task", "rationales", "negatives", "discriminator", "loss", "hyperparameters"):
        section = schema["$defs"]["MethodSpec"]["properties"][name]["$ref"].rpartition("/")[2]
        for field, described in schema["$defs"][section]["properties"].items():
            assert described.get("description"), f"{name}.{field}"


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda p: p.name)
def test_the_schema_takes_the_examples_and_refuses_what_the_server_does(path: Path) -> None:
    body = yaml.safe_load(path.read_text())
    body = body.get("job", body)
    checker = jsonschema_rs.validator_for(json.loads(read_spec_schema()))
    assert checker.is_valid(body)
    assert not checker.is_valid({**body, "modle": "x"})
    assert not checker.is_valid({**body, "method": {"type": "qcrd", "qcrd": {"tsk": {}}}})
    assert not checker.is_valid({**body, "method": {"type": "qcdr"}})
    assert not checker.is_valid({**body, "seed": -1})
