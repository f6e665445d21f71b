"""A system that knows more teachers for a while."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests.survival.processes import Part
from tests.survival.system import System, commands, environment, until

SWAPPED = ("gateway", "assembler")


@contextmanager
def knowing(
    system: System, teachers: Mapping[str, Any], variables: Mapping[str, str]
) -> Iterator[None]:
    """Run the gateway and its worker with these `teachers` too, and with `variables`."""
    known = json.loads(environment(system, "gateway")["QCRD_TEACHERS"]) | dict(teachers)
    more = {"QCRD_TEACHERS": json.dumps(known), **variables}
    ours = {name: system.parts[name] for name in SWAPPED}
    for name, part in ours.items():
        part.stop()
        command = commands(system)[name]
        system.parts[name] = Part(name, command, environment(system, name) | more, system.folder)
        system.parts[name].start()
    until(system.ready, system)
    try:
        yield
    finally:
        for name, part in ours.items():
            system.parts[name].stop()
            system.parts[name] = part
            part.start()
        until(system.ready, system)
