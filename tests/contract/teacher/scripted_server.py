"""The scripted engine as a server process: `python -m tests.contract.teacher.scripted_server`."""

from __future__ import annotations

import asyncio
import signal

from services.teacher.main import serve
from services.teacher.settings import ServerSettings
from tests.contract.teacher.test_wire import Scripted

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: None)
    asyncio.run(serve(Scripted(), ServerSettings()))
