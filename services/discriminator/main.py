"""The discriminator: quality judges behind HTTP, one per job, their versions in the store."""

from __future__ import annotations

from collections.abc import Callable

import torch
import uvicorn
from fastapi import FastAPI

from qcrd.errors import Transient
from qcrd.records.judge import CreateJudgeRequest, JudgeVersion
from qcrd.runtime import keys
from qcrd.runtime.http.error_responses import install_error_handlers
from qcrd.runtime.settings import LogSettings, ModelSettings, StoreSettings, load_settings
from qcrd.runtime.storage.base_models import find_base_model
from qcrd.runtime.storage.store import Store, open_store
from qcrd.runtime.telemetry import configure_logging, install_http_telemetry
from services.discriminator.registry import JudgeRegistry
from services.discriminator.schemas import (
    PretrainRequest,
    RestoreRequest,
    ScoreRequest,
    ScoreResponse,
    UpdateRequest,
)
from services.discriminator.settings import DiscriminatorSettings


def create_app(judges: JudgeRegistry, check_ready: Callable[[], None]) -> FastAPI:
    """`check_ready` raises `Transient` while something the service needs is away."""
    app = FastAPI(title="qcrd discriminator")

    @app.put("/v1/judges/{judge_id}")
    def create_judge(judge_id: str, body: CreateJudgeRequest) -> JudgeVersion:
        return judges.create_judge(keys.validate_id(judge_id, "judge_id"), body)

    @app.get("/v1/judges/{judge_id}")
    def retrieve_judge(judge_id: str, resident: bool = False) -> JudgeVersion:
        """With `resident`, 404 rather than to bring back a judge that is not in memory: whoever
        only looks takes no other judge's place."""
        get_judge = judges.get_resident if resident else judges.get_judge
        return get_judge(keys.validate_id(judge_id, "judge_id")).current

    @app.post("/v1/judges/{judge_id}/pretrain")
    def pretrain_judge(judge_id: str, body: PretrainRequest) -> JudgeVersion:
        return judges.get_judge(keys.validate_id(judge_id, "judge_id")).pretrain(body.contrasts)

    @app.post("/v1/judges/{judge_id}/update")
    def update_judge(judge_id: str, body: UpdateRequest) -> JudgeVersion:
        resident_judge = judges.get_judge(keys.validate_id(judge_id, "judge_id"))
        return resident_judge.update(
            body.iteration, body.contrasts, body.weight, oldest_version=body.keep
        )

    @app.post("/v1/judges/{judge_id}/score")
    def score_pairs(judge_id: str, body: ScoreRequest) -> ScoreResponse:
        return judges.get_judge(keys.validate_id(judge_id, "judge_id")).score(
            body.pairs, body.version
        )

    @app.post("/v1/judges/{judge_id}/restore")
    def restore_judge(judge_id: str, body: RestoreRequest) -> JudgeVersion:
        return judges.get_judge(keys.validate_id(judge_id, "judge_id")).restore(body.version)

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready")
    def readiness() -> dict[str, str]:
        check_ready()
        return {"status": "ready"}

    install_error_handlers(app)
    install_http_telemetry(app, "discriminator")
    return app


def build_app(settings: DiscriminatorSettings, store: Store, models: ModelSettings) -> FastAPI:
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    judges = JudgeRegistry(
        store,
        lambda name: find_base_model(name, models, store, param="discriminator.encoder"),
        max_resident=settings.resident,
        device=device,
    )

    def check_ready() -> None:
        if not models.models_dir.is_dir():
            raise Transient(f"QCRD_MODELS_DIR: there is no folder {models.models_dir}")
        store.list(keys.judge_prefix("ready"))

    return create_app(judges, check_ready)


def main() -> None:
    configure_logging("discriminator", load_settings(LogSettings).level)
    settings = load_settings(DiscriminatorSettings)
    app = build_app(
        settings, open_store(load_settings(StoreSettings)), load_settings(ModelSettings)
    )
    uvicorn.run(app, host=settings.host, port=settings.port, log_config=None)


if __name__ == "__main__":
    main()
