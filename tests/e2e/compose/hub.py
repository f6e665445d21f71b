"""The hub of `hub.yaml`: it has one base of its own, and none of those that the images bring."""

from __future__ import annotations

from pathlib import Path

import uvicorn

from tests import tiny
from tests.fakes.hub import FakeHub

PORT = 8099
BASE = "acme/tiny-bert"


def main() -> None:
    hub = FakeHub(repositories={BASE: tiny.save_base(Path("/tmp") / BASE)}, cdn_host="cdn")
    uvicorn.run(hub.app(), host="0.0.0.0", port=PORT, log_level="info")


if __name__ == "__main__":
    main()
