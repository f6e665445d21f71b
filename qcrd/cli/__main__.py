"""`python -m qcrd.cli` is `qcrd`."""

from __future__ import annotations

from qcrd.cli.main import app

app()
