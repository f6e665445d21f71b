"""Where the discriminator runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class DiscriminatorSettings(BaseSettings):
    """`resident` judges stay in memory; the others are read back from the store when asked."""

    model_config = SettingsConfigDict(
        env_prefix="QCRD_DISCRIMINATOR_", frozen=True, extra="ignore", env_ignore_empty=True
    )

    host: str = "127.0.0.1"
    port: int = 8090
    resident: Annotated[int, Field(ge=1)] = 4
    device: Annotated[Literal["auto", "cpu", "cuda"], Field(validation_alias="QCRD_DEVICE")] = (
        "auto"
    )
