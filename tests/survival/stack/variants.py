"""The same system with other environment variables for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from tests.survival.stack.processes import Part
from tests.survival.stack.system import System, commands, environment, until, up


@contextmanager
def with_variables(system: System, variables: Mapping[str, Mapping[str, str]]) -> Iterator[None]:
    """Run the parts that `variables` names with these variables too. They are started in that
    order, and take work when the block begins."""
    ours = {name: system.parts[name] for name in variables}
    theirs = {
        name: Part(name, commands(system)[name], environment(system, name) | more, system.folder)
        for name, more in variables.items()
    }
    try:
        _exchange(system, ours, theirs)
        yield
    finally:
        _exchange(system, {name: system.parts[name] for name in ours}, ours)


def _exchange(system: System, running: Mapping[str, Part], others: Mapping[str, Part]) -> None:
    for part in reversed(running.values()):
        part.stop()
    for name, part in others.items():
        heard = part.length()
        system.parts[name] = part
        part.start()
        until(partial(up, system, name, heard), system)
