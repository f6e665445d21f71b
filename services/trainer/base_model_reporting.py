"""Reports this trainer's base models to the gateways, for as long as its worker runs."""

from __future__ import annotations

import logging
import socket
import threading
import time

from qcrd.errors import Transient
from qcrd.records.base_models import BaseModelReport
from qcrd.runtime.redis.base_model_reports import BaseModelReports
from qcrd.runtime.settings import ModelSettings
from qcrd.runtime.storage.base_model_checks import inspect_base_model
from qcrd.runtime.storage.base_models import list_local_models
from qcrd.runtime.storage.hub import ModelHub

log = logging.getLogger(__name__)

REPORT_SECONDS = 60.0
"""Between two reports: a model that was put into the folder is known after as long."""


def make_report(settings: ModelSettings, hub: ModelHub) -> BaseModelReport:
    """What can be trained here now."""
    models = {
        name: inspect_base_model(settings.models_dir / name) for name in list_local_models(settings)
    }
    return BaseModelReport(
        worker=socket.gethostname(),
        models=models,
        reaches_hub=hub.is_reachable(),
        reported_at=time.time(),
    )


def start_reporting(
    reports: BaseModelReports,
    settings: ModelSettings,
    stop_event: threading.Event,
    *,
    hub: ModelHub,
    interval_seconds: float = REPORT_SECONDS,
) -> threading.Thread:
    """Report in a thread of its own, at once and then every `interval_seconds`."""

    def report_until_stopped() -> None:
        while True:
            try:
                reports.publish(make_report(settings, hub))
            except (Transient, OSError) as error:
                log.warning("base models not reported: %s", error)
            if stop_event.wait(interval_seconds):
                return

    thread = threading.Thread(target=report_until_stopped, name="base-models", daemon=True)
    thread.start()
    return thread
