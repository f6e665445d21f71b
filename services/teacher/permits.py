"""One count over running and queued requests; none free is refused at once, nobody waits here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from services.teacher.errors import Overloaded


class Permits:
    """Belongs to one event loop, so plain counting is safe."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.taken = 0

    @contextmanager
    def take(self) -> Iterator[None]:
        """Hold one permit. Raises `Overloaded`."""
        if self.taken >= self.count:
            raise Overloaded("Model is overloaded")
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1
