"""The discriminator: quality judges behind HTTP, one per job, their versions in the store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import torch
import uvicorn
from fastapi import FastAPI, Header

from qcrd.errors import Transient
from qcrd.records.judge import LEASE_TOKEN_HEADER, CreateJudgeRequest, JudgeVersion
from qcrd.runtime import keys
from qcrd.runtime.http.error_responses import install_error_handlers
from qcrd.runtime.settings import LogSettings, ModelSettings, StoreSettings, load_settings
from qcrd.runtime.storage.base_models import find_base_model
from qcrd.runtime.storage.store import Store, open_store
from qcrd.runtime.telemetry import configure_logging, install_http_telemetry
from services.discriminator.registry import JudgeRegistry
from services.discriminator.schemas import (
    JudgeErrorResponse,
    PretrainRequest,
    RestoreRequest,
    ScoreRequest,
    ScoreResponse,
    UpdateRequest,
)
from services.discriminator.settings import DiscriminatorSettings

LeaseToken = Annotated[int | None, Header(alias=LEASE_TOKEN_HEADER)]


ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": JudgeErrorResponse, "description": meaning}
    for status, meaning in {
        400: "A field is wrong: `param` names it and `message` the fix.",
        404: "There is no such judge.",
        409: "The judge has another spec, or lacks the version.",
        503: "The store is unavailable: try again.",
    }.items()
}


def create_app(judges: JudgeRegistry, check_ready: Callable[[], None]) -> FastAPI:
    """`check_ready` raises `Transient` while a dependency of the service is unavailable."""
    app = FastAPI(title="qcrd discriminator", responses=ERROR_RESPONSES)

    @app.put("/v1/judges/{judge_id}")
    def create_judge(
        judge_id: str, body: CreateJudgeRequest, token: LeaseToken = None
    ) -> JudgeVersion:
        return judges.create_judge(keys.validate_id(judge_id, "judge_id"), body, token=token)

    @app.get("/v1/judges/{judge_id}")
    def retrieve_judge(judge_id: str, resident: bool = False) -> JudgeVersion:
        """With `resident`, 404 for a judge that is not in memory: looking at one takes no
        other judge's place."""
        return judges.get_current(keys.validate_id(judge_id, "judge_id"), resident=resident)

    @app.post("/v1/judges/{judge_id}/pretrain")
    def pretrain_judge(
        judge_id: str, body: PretrainRequest, token: LeaseToken = None
    ) -> JudgeVersion:
        with judges.use_judge(keys.validate_id(judge_id, "judge_id"), token=token) as judge:
            return judge.pretrain(body.contrasts, token=token)

    @app.post("/v1/judges/{judge_id}/update")
    def update_judge(judge_id: str, body: UpdateRequest, token: LeaseToken = None) -> JudgeVersion:
        with judges.use_judge(keys.validate_id(judge_id, "judge_id"), token=token) as judge:
            return judge.update(
                body.iteration,
                body.contrasts,
                body.weight,
                oldest_version=body.keep,
                token=token,
            )

    @app.post("/v1/judges/{judge_id}/score")
    def score_pairs(judge_id: str, body: ScoreRequest, token: LeaseToken = None) -> ScoreResponse:
        with judges.use_judge(keys.validate_id(judge_id, "judge_id"), token=token) as judge:
            return judge.score(body.pairs, body.version)

    @app.post("/v1/judges/{judge_id}/restore")
    def restore_judge(
        judge_id: str, body: RestoreRequest, token: LeaseToken = None
    ) -> JudgeVersion:
        with judges.use_judge(keys.validate_id(judge_id, "judge_id"), token=token) as judge:
            return judge.restore(body.version)

    # Not in a thread, which it would wait for while judges that train hold all of them.
    @app.get("/health")
    async def health() -> dict[str, str]:
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


def require_device(device: str) -> None:
    """At start, as only a job would find out that there is none, and wait for it."""
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            "invalid environment: QCRD_DEVICE: it is cuda, and this process sees no GPU: give "
            "it one, take an image built with VARIANT=cuda, or set auto or cpu"
        )


def main() -> None:
    configure_logging("discriminator", load_settings(LogSettings).level)
    settings = load_settings(DiscriminatorSettings)
    require_device(settings.device)
    app = build_app(
        settings, open_store(load_settings(StoreSettings)), load_settings(ModelSettings)
    )
    uvicorn.run(app, host=settings.host, port=settings.port, log_config=None)


if __name__ == "__main__":
    main()
