"""Settings of the discriminator."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from qcrd.runtime.settings import EnvironmentSettings


class DiscriminatorSettings(EnvironmentSettings, env_prefix="QCRD_DISCRIMINATOR_"):
    """`resident` judges stay in memory; the others are read back from the store when asked."""

    host: str = "127.0.0.1"
    port: int = 8090
    resident: Annotated[int, Field(ge=1)] = 4
    device: Annotated[Literal["auto", "cpu", "cuda"], Field(validation_alias="QCRD_DEVICE")] = (
        "auto"
    )
