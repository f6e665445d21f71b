"""QCRD: quality-guided contrastive rationale distillation (Wang et al., EMNLP 2025)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from qcrd.client.client import Client as Client


def __getattr__(name: str) -> Any:
    """`qcrd.Client` is imported when it is asked for: the services and the version need no HTTP
    client."""
    if name == "Client":
        from qcrd.client.client import Client

        return Client
    raise AttributeError(f"module 'qcrd' has no attribute {name!r}")
