"""The loopback ports of the embedded stack."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from qcrd.errors import Conflict, Invalid, Transient

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


PORT_VARIABLES = MappingProxyType(
    {
        "api": "QCRD_API_PORT",
        "teacher": "PORT",
        "discriminator": "QCRD_DISCRIMINATOR_PORT",
        "students": "QCRD_STUDENTS_PORT",
    }
)
"""The documented variables that fix a service's port, by port name."""


DEFAULT_API_PORT = 8000
"""The gateway's, where it is free."""


class RequestedPort(NamedTuple):
    """A port that the user chose; `source` is the option or variable that names it."""

    number: int
    source: str


def is_port_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def read_requested_ports(
    environment: Mapping[str, str], port: int | None
) -> dict[str, RequestedPort]:
    """The ports that the user chose, by name; the gateway's by `--port` before QCRD_API_PORT."""
    requested: dict[str, RequestedPort] = {}
    for name, variable in PORT_VARIABLES.items():
        if value := environment.get(variable):
            if not (value.isdecimal() and 0 < int(value) < 65536):
                raise Invalid(f"{variable}: {value!r} is not a port number", param=variable)
            requested[name] = RequestedPort(int(value), variable)
    if port is not None:
        requested["api"] = RequestedPort(port, "--port")
    return requested


def choose_ports(
    names: Sequence[str],
    *,
    preferred: Mapping[str, int],
    requested: Mapping[str, RequestedPort] = MappingProxyType({}),
) -> dict[str, int]:
    """One port per name: the requested one, else that of the last run if it is free, else any.

    `Conflict` when a requested port is in use.
    """
    chosen: dict[str, int] = {}
    for name, (number, source) in requested.items():
        if number in chosen.values() or not is_port_free(number):
            raise Conflict(
                f"{source}: port {number} of 127.0.0.1 is in use. Name another one, or leave "
                f"{source} out to get a free one",
                param="port",
                code="port_in_use",
            )
        chosen[name] = number
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
                else find_free_port(set(chosen.values()))
            )
    return chosen


def find_free_port(taken: Collection[int] = ()) -> int:
    """One of `PORT_RANGE` that is not `taken`."""
    for port in random.sample(PORT_RANGE, 500):
        if port not in taken and is_port_free(port):
            return port
    raise Transient(f"found no free port between {PORT_RANGE.start} and {PORT_RANGE.stop}")
