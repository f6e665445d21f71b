"""A system that knows more teachers for a while."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests.survival.stack.system import System, environment
from tests.survival.stack.variants import with_variables

SWAPPED = ("gateway", "assembler")


@contextmanager
def knowing(
    system: System, teachers: Mapping[str, Any], variables: Mapping[str, str]
) -> Iterator[None]:
    """Run the gateway and its worker with these `teachers` too, and with `variables`."""
    known = json.loads(environment(system, "gateway")["QCRD_TEACHERS"]) | dict(teachers)
    more = {"QCRD_TEACHERS": json.dumps(known), **variables}
    with with_variables(system, dict.fromkeys(SWAPPED, more)):
        yield
