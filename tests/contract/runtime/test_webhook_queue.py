from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from qcrd.records.webhooks import WebhookDelivery
from qcrd.runtime import redis_keys
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.redis.webhook_queue import RedisWebhookQueue, WebhookQueue
from qcrd.runtime.settings import RedisSettings
from tests.conftest import free_ports, kill, valkey
from tests.fakes.lossy_proxy import LossyProxy


def a_delivery(number: int = 1, created_at: float = 1000.0) -> WebhookDelivery:
    return WebhookDelivery(
        id=f"evt_{number}",
        job_id=f"ftjob-{number}",
        url="https://example.com/hook",
        type="fine_tuning.job.failed",
        created_at=created_at,
    )


def begun(delivery: WebhookDelivery, attempts: int) -> WebhookDelivery:
    return delivery.model_copy(update={"attempts": attempts})


def test_what_was_added_is_taken_as_often_as_its_sender_dies(deliveries: WebhookQueue) -> None:
    owed = a_delivery()
    deliveries.add(owed)
    assert deliveries.claim_due(999.0, lease=60, limit=9) == []
    assert deliveries.claim_due(1000.0, lease=60, limit=9) == [begun(owed, 1)]
    assert deliveries.claim_due(1059.9, lease=60, limit=9) == []
    assert deliveries.claim_due(1060.0, lease=60, limit=9) == [begun(owed, 2)]


def test_of_an_id_there_is_one_even_when_it_is_settled(deliveries: WebhookQueue) -> None:
    owed = a_delivery()
    deliveries.add(owed)
    deliveries.add(a_delivery(created_at=5.0))
    [taken] = deliveries.claim_due(2000.0, lease=60, limit=9)
    assert taken.created_at == 1000.0
    deliveries.settle(taken)
    deliveries.add(owed)
    assert deliveries.claim_due(1e9, lease=60, limit=9) == []


def test_what_is_postponed_comes_back_then(deliveries: WebhookQueue) -> None:
    deliveries.add(a_delivery())
    [taken] = deliveries.claim_due(1000.0, lease=60, limit=9)
    deliveries.postpone(taken, 1300.5)
    assert deliveries.claim_due(1300.4, lease=60, limit=9) == []
    assert [d.attempts for d in deliveries.claim_due(1300.5, lease=60, limit=9)] == [2]


def test_a_sender_that_was_given_up_settles_nothing(deliveries: WebhookQueue) -> None:
    deliveries.add(a_delivery())
    [stalled] = deliveries.claim_due(1000.0, lease=60, limit=9)
    [newer] = deliveries.claim_due(1060.0, lease=60, limit=9)
    deliveries.settle(stalled)
    deliveries.postpone(stalled, 9e9)
    [newest] = deliveries.claim_due(1120.0, lease=60, limit=9)
    assert newest.attempts == newer.attempts + 1
    deliveries.settle(newest)
    deliveries.postpone(newest, 0.0)
    assert deliveries.claim_due(1e9, lease=60, limit=9) == []


def test_the_longest_due_come_first_and_no_more_than_asked_for(deliveries: WebhookQueue) -> None:
    for number in range(5):
        deliveries.add(a_delivery(number, created_at=10.0 - number))
    assert [d.id for d in deliveries.claim_due(20.0, lease=60, limit=2)] == ["evt_4", "evt_3"]
    assert [d.id for d in deliveries.claim_due(20.0, lease=60, limit=9)] == [
        "evt_2",
        "evt_1",
        "evt_0",
    ]


def test_of_many_who_take_at_once_each_delivery_goes_to_one(deliveries: WebhookQueue) -> None:
    for number in range(40):
        deliveries.add(a_delivery(number))
    with ThreadPoolExecutor(8) as pool:
        rounds = pool.map(lambda _: deliveries.claim_due(2000.0, lease=60, limit=3), range(24))
        taken = [delivery.id for some in rounds for delivery in some]
    assert len(taken) == len(set(taken)) == 40


def test_answers_that_are_lost_lose_no_delivery(redis_settings: RedisSettings) -> None:
    there = urlsplit(redis_settings.url)
    with LossyProxy(there.port or 0, losing=b"EVALSHA", every=3) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}{there.path}"
        deliveries = RedisWebhookQueue(connect_redis(RedisSettings(url=url)))
        for number in range(20):
            deliveries.add(a_delivery(number))
        settled, now = [], 2000.0
        while len(settled) < 20:
            for delivery in deliveries.claim_due(now, lease=60, limit=4):
                deliveries.settle(delivery)
                settled.append(delivery.id)
            now += 60
            assert now < 9000
        assert proxy.lost > 5
    assert sorted(settled) == sorted(f"evt_{number}" for number in range(20))
    assert RedisWebhookQueue(connect_redis(redis_settings)).claim_due(1e9, lease=60, limit=99) == []


def test_what_is_due_outlives_a_server_that_is_killed(tmp_path: Path) -> None:
    server = valkey(free_ports(1)[0], tmp_path, fsync="always")
    server.start()
    try:
        settings = RedisSettings(url=f"redis://127.0.0.1:{server.port}/0")
        deliveries = RedisWebhookQueue(connect_redis(settings))
        deliveries.add(a_delivery(1))
        deliveries.add(a_delivery(2))
        first, _ = deliveries.claim_due(1000.0, lease=60, limit=9)
        deliveries.settle(first)
        kill(server)
        server.start()
        assert deliveries.claim_due(1000.0, lease=60, limit=9) == []
        assert [d.attempts for d in deliveries.claim_due(1060.0, lease=60, limit=9)] == [2]
    finally:
        server.stop()


def test_a_damaged_delivery_keeps_no_other_from_being_sent(redis_settings: RedisSettings) -> None:
    redis = connect_redis(redis_settings)
    deliveries = RedisWebhookQueue(redis)
    owed = [a_delivery(number) for number in range(5)]
    for delivery in owed:
        deliveries.add(delivery)
    keys = [redis_keys.webhook_key(delivery.id) for delivery in owed]
    redis.hset(keys[0], "attempts", "many")
    redis.set(keys[1], "no hash")
    redis.delete(keys[2])
    redis.hset(keys[3], "delivery", b"\xff")  # type: ignore[arg-type]
    assert deliveries.claim_due(1000.0, lease=60, limit=9) == [begun(owed[4], 1)]
    assert deliveries.claim_due(1059.0, lease=60, limit=9) == [], "no claim is full of them"
