"""The discriminator: quality judges behind HTTP, one per job, their versions in the store."""

from __future__ import annotations

from collections.abc import Callable

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from qcrd.errors import QcrdError, Transient
from qcrd.records.judge import CreateJudgeRequest, JudgeVersion
from qcrd.runtime import keys
from qcrd.runtime.settings import LogSettings, ModelSettings, StoreSettings
from qcrd.runtime.storage.base_models import find_base_model
from qcrd.runtime.storage.store import Store, open_store
from qcrd.runtime.telemetry import configure_logging, install_http_telemetry
from services.discriminator.registry import Judges
from services.discriminator.schemas import (
    Pretrain,
    Restore,
    Score,
    Scores,
    Update,
)
from services.discriminator.settings import DiscriminatorSettings


def create_app(judges: Judges, ready: Callable[[], None]) -> FastAPI:
    """`ready` raises `Transient` while something the service needs is away."""
    app = FastAPI(title="qcrd discriminator")

    @app.put("/v1/judges/{judge_id}")
    def create(judge_id: str, body: CreateJudgeRequest) -> JudgeVersion:
        return judges.create(keys.validate_id(judge_id, "judge_id"), body)

    @app.get("/v1/judges/{judge_id}")
    def describe(judge_id: str, resident: bool = False) -> JudgeVersion:
        """With `resident`, 404 rather than to bring back a judge that is not in memory: whoever
        only looks takes no other judge's place."""
        find = judges.held if resident else judges.get
        return find(keys.validate_id(judge_id, "judge_id")).current

    @app.post("/v1/judges/{judge_id}/pretrain")
    def pretrain(judge_id: str, body: Pretrain) -> JudgeVersion:
        return judges.get(keys.validate_id(judge_id, "judge_id")).pretrain(body.contrasts)

    @app.post("/v1/judges/{judge_id}/update")
    def update(judge_id: str, body: Update) -> JudgeVersion:
        seat = judges.get(keys.validate_id(judge_id, "judge_id"))
        return seat.update(body.iteration, body.contrasts, body.weight, keep=body.keep)

    @app.post("/v1/judges/{judge_id}/score")
    def score(judge_id: str, body: Score) -> Scores:
        return judges.get(keys.validate_id(judge_id, "judge_id")).score(body.pairs, body.version)

    @app.post("/v1/judges/{judge_id}/restore")
    def restore(judge_id: str, body: Restore) -> JudgeVersion:
        return judges.get(keys.validate_id(judge_id, "judge_id")).restore(body.version)

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready")
    def is_ready() -> dict[str, str]:
        ready()
        return {"status": "ready"}

    app.add_exception_handler(QcrdError, _known_error)
    app.add_exception_handler(RequestValidationError, _bad_request)
    install_http_telemetry(app, "discriminator")
    return app


def _known_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, QcrdError)
    return _envelope(error.status, error.message, error.param, error.code)


def _bad_request(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"][1:])
    return _envelope(422, f"`{path}`: {first['msg']}", path, "invalid_value")


def _envelope(status: int, message: str, param: str | None, code: str) -> JSONResponse:
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = {"message": message, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": body}, status_code=status)


def build(settings: DiscriminatorSettings, store: Store, models: ModelSettings) -> FastAPI:
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    judges = Judges(
        store,
        lambda name: find_base_model(name, models, store, param="discriminator.encoder"),
        resident=settings.resident,
        device=device,
    )

    def ready() -> None:
        if not models.models_dir.is_dir():
            raise Transient(f"QCRD_MODELS_DIR: there is no folder {models.models_dir}")
        store.list(keys.judge_prefix("ready"))

    return create_app(judges, ready)


def main() -> None:
    configure_logging("discriminator", LogSettings().level)
    settings = DiscriminatorSettings()
    app = build(settings, open_store(StoreSettings()), ModelSettings())
    uvicorn.run(app, host=settings.host, port=settings.port, log_config=None)


if __name__ == "__main__":
    main()
