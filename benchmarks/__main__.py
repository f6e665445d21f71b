"""`python -m benchmarks` runs every benchmark with its defaults, one after the other."""

from __future__ import annotations

from benchmarks import step_cost

step_cost.main()
