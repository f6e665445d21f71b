"""Loads a published student from the store: its files, prompt format, engine and app."""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from fastapi import FastAPI

from qcrd.errors import Invalid, NotFound, Transient
from qcrd.records.students.prompt_format import PromptFormat
from qcrd.runtime import keys
from qcrd.runtime.storage.base_models import download_published_model
from qcrd.runtime.storage.prompt_formats import load_prompt_format
from qcrd.runtime.storage.store import Store
from services.teacher.app import create_app
from services.teacher.engines.base import DEFAULT_MAX_POSITIONS, Engine
from services.teacher.engines.transformers.engine import TransformersEngine
from services.teacher.settings import ServerSettings
from services.teacher.students.errors import StoreUnavailable, StudentNotFound, StudentNotLoadable
from services.teacher.students.judge_client import JudgeClient
from services.teacher.students.routes import create_router

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedStudent:
    """A student in memory, and the folder its weights are mapped from."""

    app: FastAPI
    engine: Engine
    folder: tempfile.TemporaryDirectory[str]

    async def close(self) -> None:
        await self.engine.close()
        self.folder.cleanup()


class StudentLoader:
    def __init__(
        self,
        store: Store,
        server_settings: ServerSettings,
        judge: JudgeClient,
        *,
        threads: int,
        slots: int,
    ) -> None:
        self._store, self._server_settings, self._judge = store, server_settings, judge
        self._threads, self._slots = threads, slots

    async def __call__(self, name: str) -> LoadedStudent:
        """Raises `StudentNotFound`, `StudentNotLoadable`, `StoreUnavailable`."""
        if not keys.ID_PATTERN.fullmatch(name):
            raise StudentNotFound(name)
        started = monotonic()
        # A temporary folder of this process: closing the student deletes its files.
        scratch = tempfile.TemporaryDirectory(prefix="qcrd-student-")
        with ExitStack() as undo:
            undo.callback(scratch.cleanup)
            student = await self._load(name, scratch)
            undo.pop_all()
        log.info("model %s loaded in %.1f s", name, monotonic() - started)
        return student

    async def _load(self, name: str, scratch: tempfile.TemporaryDirectory[str]) -> LoadedStudent:
        folder = Path(scratch.name) / name
        try:
            await asyncio.to_thread(download_published_model, name, self._store, folder, "model")
            prompt_format = load_prompt_format(folder)
            engine = self._build_engine(name, folder, prompt_format)
            await engine.start()
        except NotFound as error:
            raise StudentNotFound(name) from error
        except Transient as error:
            raise StoreUnavailable(f"{error.message}; check QCRD_S3_ENDPOINT") from error
        # Whatever a folder's files make the libraries raise, it is this student that is broken;
        # tokenizers and safetensors raise `Exception` itself and direct children of it.
        except Exception as error:
            reason = error.message if isinstance(error, Invalid) else f"{type(error).__name__}"
            log.warning("model %s failed to load", name, exc_info=error)
            raise StudentNotLoadable(
                f"`model`: {name} cannot be loaded: {reason.replace(scratch.name + '/', '')}"
            ) from error
        make_router = partial(create_router, prompt_format=prompt_format, judge=self._judge)
        app = create_app(engine, self._server_settings, router_factories=(make_router,))
        app.state.inference.mark_ready()
        return LoadedStudent(app, engine, scratch)

    def _build_engine(
        self, name: str, folder: Path, prompt_format: PromptFormat
    ) -> TransformersEngine:
        """The engine in fp32, as in the evaluation: another precision may give another answer."""
        max_input_tokens, max_total_tokens = get_token_limits(
            json.loads((folder / "config.json").read_text()), prompt_format
        )
        return TransformersEngine(
            folder,
            name,
            threads=self._threads,
            slots=self._slots,
            max_total_tokens=max_total_tokens,
            max_input_tokens=max_input_tokens,
            precision="float32",
        )


def get_token_limits(
    config: dict[str, Any], prompt_format: PromptFormat
) -> tuple[int | None, int | None]:
    """Most tokens of a prompt, and of prompt and output; None leaves them to the engine.

    An encoder-decoder reads and writes two sequences, so the longest question takes no tokens from
    the longest output.
    """
    if not config.get("is_encoder_decoder"):
        return None, None
    encoder = {**config, **config.get("encoder", {})}
    max_input_tokens = int(
        encoder.get("max_position_embeddings")
        or encoder.get("n_positions")
        or DEFAULT_MAX_POSITIONS
    )
    return max_input_tokens, max_input_tokens + max(
        prompt_format.max_new_tokens, prompt_format.max_rationale_tokens
    )
