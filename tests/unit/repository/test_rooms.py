"""How full a folder may be: a stranger reads fifteen names at a glance, and not thirty."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[3]
MOST_MODULES = 15


def test_no_folder_has_more_modules_than_can_be_read_at_a_glance() -> None:
    modules = [
        path.relative_to(ROOT)
        for top in ("qcrd", "services", "benchmarks", "tests")
        for path in (ROOT / top).rglob("*.py")
        if not path.name.startswith("__")
    ]
    counts = Counter(path.parent for path in modules)
    assert len(counts) > 50
    assert {str(folder): n for folder, n in counts.items() if n > MOST_MODULES} == {}
