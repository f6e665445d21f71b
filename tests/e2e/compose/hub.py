"""The hub of `hub.yaml`: it has one base of its own, and none of those that the images bring."""

from __future__ import annotations

import json
import re
from pathlib import Path

import uvicorn

from tests import tiny
from tests.fakes.hub import FakeHub

PORT = 8099
BASE = "acme/tiny-bert"
TRAINING_FILE = Path(__file__).parents[1] / "small_train.jsonl"


def save_base() -> Path:
    """A base that knows the words of the job's questions and labels."""
    known = set(tiny.WORDS)
    for line in TRAINING_FILE.read_text().splitlines():
        for text in json.loads(line).values():
            known.update(re.findall(r"\w+|[^\w\s]+", str(text)))
    tiny.WORDS[:] = sorted(known)
    return tiny.save_base(Path("/tmp") / BASE)


def main() -> None:
    hub = FakeHub(repositories={BASE: save_base()}, cdn_host="cdn")
    uvicorn.run(hub.app(), host="0.0.0.0", port=PORT, log_level="info")


if __name__ == "__main__":
    main()
