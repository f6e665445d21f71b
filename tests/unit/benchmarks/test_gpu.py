"""What the GPU stages rest on: parts that are kept, parcels, versions, counted work, the page."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.gpu import decide, ladder, models, page, parcels, speed
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.machine import Machine, find_missing
from benchmarks.gpu.results import CANNOT, FAILED, UNFINISHED, WHOLE, Clock, Part, StageResults
from benchmarks.gpu.results import run_parts as run
from benchmarks.run_pool import find_whole_seeds
from qcrd.errors import Invalid, NotFound

H100 = Machine("NVIDIA H100", "cuda", 79.6, "13.0", "2.11.0", "5.17.0", "3.12.3", 16, "abc")


def part(name: str, calls: list[str], *, ok: bool = True, seconds: float = 0.0) -> Part:
    def note() -> dict[str, object]:
        calls.append(name)
        return {"ok": ok}

    return Part(name, note, seconds)


def broken() -> dict[str, object]:
    raise RuntimeError("no kernel")


def test_the_next_call_goes_on_from_what_is_done(tmp_path: Path) -> None:
    calls: list[str] = []
    kept, out = tmp_path / "kept", tmp_path / "out"
    first = StageResults("smoke", [kept], H100)
    assert run([part("a", calls), Part("b", broken)], first, Clock(60)) == FAILED
    assert "no kernel" in json.loads((kept / "smoke.json").read_text())["parts"]["b"]["failed"]
    again = StageResults("smoke", [out, kept], H100)
    assert run([part("a", calls), part("b", calls)], again, Clock(60)) == WHOLE
    assert calls == ["a", "b"]
    assert (out / "smoke.json").read_text() == (kept / "smoke.json").read_text()


@pytest.mark.parametrize(
    ("machine", "rehearsed"), [(replace(H100, card="NVIDIA H200"), False), (H100, True)]
)
def test_another_card_and_a_rehearsal_begin_anew(
    machine: Machine, rehearsed: bool, tmp_path: Path
) -> None:
    StageResults("smoke", [tmp_path], H100).add("a", {"result": {}, "seconds": 1})
    assert not StageResults("smoke", [tmp_path], machine, rehearsed=rehearsed).is_done("a")


def test_a_file_that_was_cut_off_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "smoke.json").write_text('{"parts": {"a"')
    assert StageResults("smoke", [tmp_path], H100).parts == {}


def test_what_would_not_end_in_time_is_left_to_the_next_call(tmp_path: Path) -> None:
    calls: list[str] = []
    results = StageResults("speed", [tmp_path], H100)
    parts = [part("long", calls, seconds=90), part("short", calls, seconds=5)]
    assert run(parts, results, Clock(60, now=lambda: 0.0)) == UNFINISHED
    assert calls == ["short"]


def test_a_check_that_does_not_hold_fails_the_stage(tmp_path: Path) -> None:
    assert run([part("a", [], ok=False)], StageResults("smoke", [tmp_path], H100), Clock(9)) == 1


def test_what_is_too_old_is_named() -> None:
    (line,) = find_missing({"torch": (99, 0)})
    assert "torch" in line
    assert "99.0 or newer" in line
    assert find_missing() == []


# --- parcels -----------------------------------------------------------------------------------


@pytest.fixture
def cut_file(tmp_path: Path) -> Path:
    """2.5 MiB in parts of 1."""
    (tmp_path / "model.whl").write_bytes(bytes(range(256)) * 4096 * 2 + b"x" * 2**19)
    parcels.cut([tmp_path / "model.whl"], tmp_path / "parts", part_mib=1)
    return tmp_path


def test_parts_make_the_file_again(cut_file: Path) -> None:
    sizes = [path.stat().st_size for path in sorted((cut_file / "parts").glob("*.whl.0*"))]
    assert sizes == [2**20, 2**20, 2**19]
    joined, missing = parcels.join(cut_file / "parts", cut_file / "whole")
    assert missing == []
    assert joined[0].read_bytes() == (cut_file / "model.whl").read_bytes()


def test_missing_parts_are_named(cut_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cut_file / "parts" / "model.whl.001").unlink()
    command = ["join", str(cut_file / "parts"), "--to", str(cut_file / "whole")]
    assert main(command) == CANNOT
    assert "still missing: model.whl.001" in capsys.readouterr().out
    assert list((cut_file / "whole").iterdir()) == []


def test_a_damaged_part_is_refused(cut_file: Path) -> None:
    (cut_file / "parts" / "model.whl.001").write_bytes(b"other")
    with pytest.raises(Invalid, match=r"model\.whl is not what was cut"):
        parcels.join(cut_file / "parts", cut_file / "whole")


# --- work, decision, ladder, page --------------------------------------------------------------


def count(lora: bool, flops: Callable[[int], float], tokens: float) -> tuple[float, int, int]:
    """Model FLOPs of one row of the head; the parameters, and those of the (tied) head."""
    student = models.make_sized_student(
        "tiny", "cpu", lora=lora, question_tokens=8, target_tokens=8
    )
    total = sum(p.numel() for p in student.model.parameters())
    rows = speed.HeadRows()
    rows.trained = 1
    head = student.model.get_output_embeddings().weight.numel()
    return speed.count_model_flops(student, flops(total), tokens, rows), total, head


def test_the_work_of_a_step_is_counted_by_what_is_trained() -> None:
    """10 tokens with a backward pass and 5 without are 6 * 10 + 2 * 5 = 70 per parameter: the body
    does 6 * 10 + 2 * 5 operations a parameter, the head 6 for its one row."""
    work, total, head = count(False, lambda parameters: 70.0 * parameters, 15)
    assert work == pytest.approx(70 * (total - head) + 6 * head)


def test_a_frozen_base_does_two_thirds() -> None:
    """4 operations where it is frozen, 6 in the adapters, 4 in the frozen head."""
    work, total, head = count(True, lambda parameters: 60.0 * parameters, 10)
    base = total - head
    assert 40 * base + 4 * head < work < 60 * base + 4 * head


def test_a_decision_is_made_by_its_module_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"device": "cpu", "limit": 60.0, "rehearsed": True}
    assert decide.run(tmp_path, module="no_such_decision", **options) == CANNOT
    (tmp_path / "made_decision.py").write_text("def main(arguments):\n    return len(arguments)\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert decide.run(tmp_path, module="made_decision", **options) == 7
    sys.modules.pop("made_decision")


def test_a_seed_is_whole_when_all_of_its_rows_are_there(tmp_path: Path) -> None:
    plan = replace(ladder.make_rehearsal(tmp_path, "cpu"), seeds=(0, 1))
    lines = [{"dataset": d, "method": m, "seed": seed} for d, m, seed in plan.runs]
    assert [key[2] for key in plan.runs] == [0] * 6 + [1] * 6
    assert find_whole_seeds(plan.runs, lines[:-1]) == [0]
    lines[0]["failed"] = "out of memory"
    assert find_whole_seeds(plan.runs, lines) == [1]


def test_a_page_names_the_card_and_what_failed(tmp_path: Path) -> None:
    results = StageResults("smoke", [tmp_path], H100)
    results.add("judge", {"result": {"ok": True, "max_loss_difference": 2e-5}, "seconds": 1.0})
    results.add("teacher", {"failed": "Trace\nRuntimeError: no kernel", "seconds": 1.0})
    date, text = page.render(tmp_path)
    assert text.startswith(f"# On one GPU: NVIDIA H100 ({date})")
    assert "| judge | yes | 2.0e-05 |" in text
    assert "| teacher | **no** |  | RuntimeError: no kernel |" in text
    assert "1 of 2 checks hold" in text


def test_no_results_make_no_page(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="STAGE=smoke"):
        page.render(tmp_path)
