"""Trainers' reports: one for each, and none that harms the others."""

from __future__ import annotations

import time

from qcrd.records.base_models import BaseModelInfo, BaseModelReport
from qcrd.runtime import redis_keys
from qcrd.runtime.redis.base_model_reports import (
    KEPT_SECONDS,
    BaseModelReports,
    RedisBaseModelReports,
)
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.settings import RedisSettings


def report(worker: str, *names: str, age: float = 0.0) -> BaseModelReport:
    return BaseModelReport(
        worker=worker,
        models={name: BaseModelInfo(config={"model_type": "bert"}) for name in names},
        reaches_hub=False,
        reported_at=time.time() - age,
    )


def test_of_each_trainer_the_last_report_counts(base_model_reports: BaseModelReports) -> None:
    assert base_model_reports.read() == []
    first, second, other = report("a", "x"), report("a", "x", "y"), report("b")
    for made in (first, second, other):
        base_model_reports.publish(made)
    assert sorted(base_model_reports.read(), key=lambda r: r.worker) == [second, other]


def test_one_that_cannot_be_read_and_one_that_is_old_are_not_counted(
    redis_settings: RedisSettings,
) -> None:
    redis = connect_redis(redis_settings)
    reports = RedisBaseModelReports(redis)
    good = report("a", "x")
    reports.publish(good)
    reports.publish(report("gone", age=KEPT_SECONDS + 1))
    redis.hset(redis_keys.BASE_MODEL_REPORTS, "newer", '{"models": 7}')
    assert reports.read() == [good]
    assert redis.hkeys(redis_keys.BASE_MODEL_REPORTS) == ["a", "newer"]
