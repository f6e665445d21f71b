from __future__ import annotations

from pathlib import Path

import pytest
import zstandard

from qcrd.errors import Invalid
from qcrd.runtime.backup.snapshot import read_backup

FOREIGN, BROKEN = "is no backup that this release reads", "is not (a )?whole"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", FOREIGN),
        (b"no backup at all", FOREIGN),
        (zstandard.compress(b'{"format": "another"}\n'), FOREIGN),
        (zstandard.compress(b"[1, 2]\n"), FOREIGN),
        (zstandard.compress(b"x" * 1000)[:9], BROKEN),
    ],
)
def test_what_is_no_backup_is_told_from_what_broke_off(
    tmp_path: Path, content: bytes, told: str
) -> None:
    path = tmp_path / "qcrd.backup"
    path.write_bytes(content)
    with pytest.raises(Invalid, match=told):
        list(read_backup(path))


def test_a_backup_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="cannot be read: No such file"):
        list(read_backup(tmp_path / "none"))
