"""`python -m benchmarks` runs every benchmark with its defaults, one after the other.

The ladder on real data is none of them: it takes hours, and data that is not in the repository.
"""

from __future__ import annotations

from benchmarks import negatives, step_cost, teacher
from benchmarks.gateway import __main__ as gateway

step_cost.main([])
negatives.main([])
teacher.main([])
gateway.main([])
