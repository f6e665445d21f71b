"""Cores and memory, of the machine and of a container."""

from __future__ import annotations

from pathlib import Path

from qcrd.runtime import machine


def test_a_container_s_limits_count(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:    2048 kB\n")
    assert machine.read_available_memory(meminfo, tmp_path) == 2048 * 1024
    (tmp_path / "memory.max").write_text("1500000\n")
    (tmp_path / "memory.current").write_text("500000\n")
    (tmp_path / "memory.stat").write_text("anon 400000\ninactive_file 90000\n")
    assert machine.read_available_memory(meminfo, tmp_path) == 1_090_000
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.read_available_memory(meminfo, tmp_path) == 2048 * 1024
    assert machine.read_available_memory(tmp_path / "none", tmp_path) is None
    whole = machine.count_cores(tmp_path)
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.count_cores(tmp_path) == whole
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    assert machine.count_cores(tmp_path) == 1
