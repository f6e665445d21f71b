"""How many processes train a job where the setting is `auto`: cores, and the memory for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qcrd.records.job import Job, JobStatus
from qcrd.records.specs.spec import JobSpec
from qcrd.runtime.settings import ModelSettings, load_settings
from services.trainer.execution import factory
from services.trainer.execution.process_count import choose_processes, find_gpu
from services.trainer.settings import AUTO, TrainerSettings

GIB = 2**30
SMOLLM2 = {
    "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    "tie_word_embeddings": True,
}  # fmt: skip


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


def choose(models: Path, job: JobSpec, cores: int, gib: float, *, has_gpu: bool = False) -> int:
    free_bytes = round(gib * GIB)
    return choose_processes(job, models, has_gpu=has_gpu, cores=cores, free_bytes=free_bytes)


def test_a_small_student_has_a_process_for_each_core_up_to_eight(models: Path) -> None:
    assert [choose(models, make_spec(), n, 128) for n in (1, 2, 16)] == [1, 2, 8]


def test_there_are_no_more_than_the_memory_has_room_for(models: Path) -> None:
    counts = [choose(models, make_spec(), 4, gib) for gib in (64, 12, 4, 1)]
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (4, 1)
    whole = make_spec(student={})  # all weights are trained: four times the bytes, and more
    assert choose(models, whole, 2, 8) == 1
    assert choose(models, make_spec(), 2, 8) == 2


@pytest.mark.parametrize("config", ['{"model_type": "martian"}', "{", "[]"])
def test_one_where_the_base_cannot_be_counted(models: Path, config: str) -> None:
    (models / "odd").mkdir()
    (models / "odd/config.json").write_text(config)
    for name in ("owner/on-the-hub", "odd"):
        assert choose(models, make_spec(name), 4, 64) == 1


def test_one_beside_a_gpu_and_for_losses_that_were_not_tried_on_several(
    models: Path, tmp_path: Path
) -> None:
    assert choose(models, make_spec(), 4, 64, has_gpu=True) == 1
    for contrast in ("dpo", "unlikelihood"):
        assert choose(models, make_spec(loss={"contrast": contrast}), 4, 64) == 1
    assert not find_gpu(tmp_path)
    (tmp_path / "nvidiactl").touch()
    assert not find_gpu(tmp_path)
    (tmp_path / "nvidia0").touch()
    assert find_gpu(tmp_path)


def test_a_job_goes_on_with_as_many_as_it_was_begun_with_until_memory_runs_out(
    models: Path,
) -> None:
    def count(setting: str, begun_with: int | None, micro_batches: int = 1) -> int:
        job = Job(
            id=f"ftjob-{'0' * 24}",
            spec=make_spec(),
            status=JobStatus.RUNNING,
            created_at=0.0,
            processes=begun_with,
            micro_batches=micro_batches,
        )
        settings = TrainerSettings.model_validate({"device": "cpu", "processes": setting})
        return factory._count_processes(settings, ModelSettings(models_dir=models), job)

    assert count("auto", 3) == 3
    assert count("auto", 3, micro_batches=4) == 1
    assert count("2", 3) == 2
    assert count("1", None) == 1


def test_auto_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCRD_PROCESSES", "auto")
    settings = load_settings(TrainerSettings)
    assert (settings.processes, settings.fixed_processes) == (AUTO, 1)
    monkeypatch.setenv("QCRD_SHARDS", "2")
    with pytest.raises(SystemExit, match="cannot be parted into groups of 2"):
        load_settings(TrainerSettings)
    monkeypatch.setenv("QCRD_PROCESSES", "0")
    with pytest.raises(SystemExit, match=r"QCRD_PROCESSES: .*at least 1, or `auto`"):
        load_settings(TrainerSettings)
