"""What trainers report of their base models, for gateways that cannot see their folders."""

from __future__ import annotations

import logging
import threading
import time
from typing import Protocol, cast

from pydantic import ValidationError
from redis import Redis

from qcrd.records.base_models import BaseModelReport
from qcrd.runtime import redis_keys
from qcrd.runtime.redis.connection import translate_redis_errors

log = logging.getLogger(__name__)

KEPT_SECONDS = 30 * 86400
"""How long a trainer that says nothing more is counted: pools are scaled to none and back."""


class BaseModelReports(Protocol):
    """Every method raises `Transient` while Redis is unavailable."""

    def publish(self, report: BaseModelReport) -> None:
        """Take the place of this worker's last report."""

    def read(self) -> list[BaseModelReport]:
        """The last report of every worker of the last thirty days."""


class MemoryBaseModelReports:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reports: dict[str, BaseModelReport] = {}

    def publish(self, report: BaseModelReport) -> None:
        with self._lock:
            self._reports[report.worker] = report

    def read(self) -> list[BaseModelReport]:
        with self._lock:
            return list(self._reports.values())


class RedisBaseModelReports:
    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def publish(self, report: BaseModelReport) -> None:
        with translate_redis_errors():
            self._redis.hset(redis_keys.BASE_MODEL_REPORTS, report.worker, report.model_dump_json())

    def read(self) -> list[BaseModelReport]:
        with translate_redis_errors():
            stored = cast(dict[str, str], self._redis.hgetall(redis_keys.BASE_MODEL_REPORTS))
            reports = [
                report
                for worker, text in stored.items()
                if (report := _parse_report(worker, text)) is not None
            ]
            oldest = time.time() - KEPT_SECONDS
            expired = [report.worker for report in reports if report.reported_at < oldest]
            if expired:
                self._redis.hdel(redis_keys.BASE_MODEL_REPORTS, *expired)
        return [report for report in reports if report.worker not in expired]


def _parse_report(worker: str, text: str) -> BaseModelReport | None:
    try:
        return BaseModelReport.model_validate_json(text)
    except ValidationError as error:  # of another release: it is not counted
        log.warning("the base models of trainer %s cannot be read: %s", worker, error)
        return None
