"""Free ports of the loopback interface."""

from __future__ import annotations

import random
import socket
from collections.abc import Mapping, Sequence

from qcrd.errors import Conflict, Transient

PORT_RANGE = range(17000, 32000)
"""Below the ephemeral range (32768 on Linux), where an outgoing connection could take a port
between the choice and its use."""
PORT_NAMES = (
    "api",
    "redis",
    "s3",
    "s3_grpc",
    "weed_master",
    "weed_master_grpc",
    "weed_volume",
    "weed_volume_grpc",
    "weed_filer",
    "weed_filer_grpc",
    "weed_admin",
    "weed_admin_grpc",
    "teacher",
    "discriminator",
    "students",
)


def is_port_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def choose_ports(
    names: Sequence[str], *, preferred: Mapping[str, int], api: int | None
) -> dict[str, int]:
    """One port per name: those of the last run where they are still free, else any free ones.

    `api` is the user's own choice of the gateway's port: `Conflict` when it is taken.
    """
    if api is not None and not is_port_free(api):
        raise Conflict(
            f"--port: port {api} of 127.0.0.1 is in use. Name another one, or leave --port out "
            "to get a free one",
            param="port",
            code="port_in_use",
        )
    chosen: dict[str, int] = {} if api is None else {"api": api}
    for name in names:
        if name not in chosen:
            preferred_port = preferred.get(name)
            usable = (
                preferred_port is not None
                and preferred_port not in chosen.values()
                and is_port_free(preferred_port)
            )
            chosen[name] = (
                preferred_port
                if preferred_port and usable
                else _find_free_port(set(chosen.values()))
            )
    return chosen


def _find_free_port(taken: set[int]) -> int:
    for port in random.sample(PORT_RANGE, 500):
        if port not in taken and is_port_free(port):
            return port
    raise Transient(f"found no free port between {PORT_RANGE.start} and {PORT_RANGE.stop}")
