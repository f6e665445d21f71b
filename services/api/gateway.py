"""What the routes work with, built once by `main` and handed to each of them by FastAPI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from qcrd.runtime.events import Events
from qcrd.runtime.jobs import JobStore
from qcrd.runtime.queue import Queue
from qcrd.runtime.settings import ModelSettings
from qcrd.runtime.store import Store
from services.api.settings import ApiSettings, FileSettings, TeacherSettings


@dataclass(frozen=True)
class Settings:
    api: ApiSettings
    teachers: TeacherSettings
    files: FileSettings
    models: ModelSettings


@dataclass(frozen=True)
class Gateway:
    store: Store
    jobs: JobStore
    events: Events
    queue: Queue
    settings: Settings


def _of(request: Request) -> Gateway:
    return cast(Gateway, request.app.state.gateway)


Here = Annotated[Gateway, Depends(_of)]
