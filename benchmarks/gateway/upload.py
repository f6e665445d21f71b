"""One large upload to a running gateway: its duration and the gateway's memory.

`python -m benchmarks.gateway.upload --url http://127.0.0.1:8000 --pid PID` sends 1 GB; PID is the
gateway's process. The store behind it should be a real one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx2

GIGABYTE = 10**9
OUTPUTS = 5
OUTPUT_TEXT = "One apple and one apple are two apples, and with one more they are three. " * 4
"""A teacher output; a line with five of them is 1.6 kB."""
BOUNDARY = "of-the-upload-benchmark"


@dataclass(frozen=True)
class UploadResult:
    """`peak` is the largest resident size since the process began, `before` the one at the start of
    the upload; all in bytes. `status` is that of the response."""

    status: int
    bytes: int
    seconds: float
    before: int
    peak: int

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self.bytes / self.seconds


def measure(
    url: str,
    pid: int,
    *,
    size: int = GIGABYTE,
    key: str = "",
    salt: str = "",
    file: Iterator[bytes] | None = None,
) -> UploadResult:
    """Upload a file of `size` bytes to the gateway at `url` with process `pid`.

    Its pieces are `file`, or else generated; another `salt` generates another file. It is not
    deleted afterwards.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx2.Client(base_url=url, headers=headers, timeout=600, trust_env=False) as client:
        before, started = _read_memory(pid, "VmRSS"), time.perf_counter()
        response = client.post(
            "/v1/files",
            content=encode_form(file or generate_lines(size, salt)),
            headers={"content-type": f"multipart/form-data; boundary={BOUNDARY}"},
        )
        seconds = time.perf_counter() - started
    return UploadResult(response.status_code, size, seconds, before, _read_memory(pid, "VmHWM"))


def generate_lines(size: int, salt: str = "") -> Iterator[bytes]:
    """Lines with `size` bytes in total; the last one is padded."""
    number, remaining = 0, size
    while remaining:
        line = _make_line(f"What is {number} + 1{salt}?")
        if remaining < 2 * len(line):
            line = _make_line(f"What is {number} + 1{salt}?" + "?" * (remaining - len(line)))
        yield line
        number, remaining = number + 1, remaining - len(line)


def _make_line(question: str) -> bytes:
    row = {"question": question, "label": "3", "teacher_outputs": [OUTPUT_TEXT] * OUTPUTS}
    return json.dumps(row).encode() + b"\n"


def encode_form(file: Iterator[bytes]) -> Iterator[bytes]:
    """The upload's body, in pieces of about 64 kB."""
    yield _part_header("purpose") + b"fine-tune\r\n"
    yield _part_header('file"; filename="large.jsonl')
    chunk = bytearray()
    for line in file:
        chunk += line
        if len(chunk) >= 1 << 16:
            yield bytes(chunk)
            chunk.clear()
    yield bytes(chunk) + f"\r\n--{BOUNDARY}--\r\n".encode()


def _part_header(name: str) -> bytes:
    return f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode()


def _read_memory(pid: int, name: str) -> int:
    """A size from `/proc/PID/status`, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) * 1024


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--bytes", type=int, default=GIGABYTE)
    parser.add_argument("--key", default="")
    options = parser.parse_args(argv)
    result = measure(options.url, options.pid, size=options.bytes, key=options.key)
    print(json.dumps({**asdict(result), "rate": result.rate}, indent=1))


if __name__ == "__main__":
    main()
