"""A worker as a service would build it, which writes down the messages it gets. See test_queue."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from qcrd.records.job import Stage
from qcrd.runtime.jobs.queue import create_celery_app
from qcrd.runtime.jobs.state_machine import STAGE_TASKS
from qcrd.runtime.settings import RedisSettings
from qcrd.runtime.telemetry import configure_logging, current_request_id

configure_logging("queue-test")
app = create_celery_app(RedisSettings())


@app.task(name=STAGE_TASKS[Stage.TRAINING])
def train(job_id: str) -> None:
    logging.getLogger("task").info("got it")
    with Path(os.environ["SEEN_FILE"]).open("a") as seen:
        seen.write(f"{job_id} {current_request_id()}\n")
