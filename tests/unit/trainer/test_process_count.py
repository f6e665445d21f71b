"""How many processes train a job where the setting is `auto`: cores, and the memory for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qcrd.records.specs.spec import JobSpec
from qcrd.runtime import machine
from qcrd.runtime.settings import load_settings
from services.trainer.execution import process_count
from services.trainer.execution.process_count import choose_processes
from services.trainer.settings import AUTO, TrainerSettings

GIB = 2**30
SMOLLM2 = {
    "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_count, "ACCELERATORS", ())


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(SMOLLM2))
    return tmp_path


def make_spec(model: str = "base", **settings: Any) -> JobSpec:
    settings = {"teacher": "t", "student": {"lora": {"rank": 16}}, **settings}
    body = {"model": model, "training_file": "file-1", "method": {"type": "dss", "dss": settings}}
    return JobSpec.model_validate(body)


def test_a_small_student_has_a_process_for_each_core_up_to_four(models: Path) -> None:
    counts = [
        choose_processes(make_spec(), models, cores=n, free_bytes=64 * GIB) for n in (1, 2, 8)
    ]
    assert counts == [1, 2, 4]


def test_there_are_no_more_than_the_memory_has_room_for(models: Path) -> None:
    free = [64 * GIB, 12 * GIB, 4 * GIB, GIB]
    counts = [choose_processes(make_spec(), models, cores=4, free_bytes=n) for n in free]
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (4, 1)
    whole = make_spec(student={})  # all weights are trained: four times the bytes, and more
    assert choose_processes(whole, models, cores=2, free_bytes=10 * GIB) == 1
    assert choose_processes(make_spec(), models, cores=2, free_bytes=10 * GIB) == 2


def test_one_where_nothing_is_known_of_the_base(models: Path) -> None:
    (models / "odd").mkdir()
    (models / "odd/config.json").write_text('{"model_type": "martian"}')
    (models / "torn").mkdir()
    (models / "torn/config.json").write_text("{")
    for name in ("owner/on-the-hub", "odd", "torn"):
        assert choose_processes(make_spec(name), models, cores=4, free_bytes=64 * GIB) == 1


def test_one_beside_a_gpu(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_count, "ACCELERATORS", ("null",))
    assert choose_processes(make_spec(), models, cores=4, free_bytes=64 * GIB) == 1


def test_auto_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCRD_PROCESSES", "auto")
    settings = load_settings(TrainerSettings)
    assert (settings.processes, settings.fixed_processes) == (AUTO, 1)
    monkeypatch.setenv("QCRD_SHARDS", "2")
    with pytest.raises(SystemExit, match="cannot be parted into groups of 2"):
        load_settings(TrainerSettings)


def test_a_container_s_limits_count(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:    2048 kB\n")
    assert machine.read_available_memory(meminfo, tmp_path) == 2048 * 1024
    (tmp_path / "memory.max").write_text("1500000\n")
    (tmp_path / "memory.current").write_text("500000\n")
    assert machine.read_available_memory(meminfo, tmp_path) == 1_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.read_available_memory(meminfo, tmp_path) == 2048 * 1024
    assert machine.read_available_memory(tmp_path / "none", tmp_path) is None
    whole = machine.count_cores(tmp_path)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.count_cores(tmp_path) == whole
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert machine.count_cores(tmp_path) == 1
