"""Jobs whose teacher cannot be asked by batch are refused when they are created; what batches cost
is in estimates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from qcrd.runtime import keys
from services.api.assembling.tokens.token_account import TokenAccount
from services.api.assembling.tokens.token_sums import Tokens
from services.api.dependencies import Gateway, get_service
from services.api.settings import TeacherConfig, TeacherSettings
from tests.fakes.batches import FakeBatches
from tests.unit.api.assembling.assembling_bench import adds
from tests.unit.api.gateway_client import Here, refused, sums

KEY = "sk-of-the-team-0123456789"
PRICES = {"prompt_price": 1.0, "completion_price": 2.0}
BATCH = "method.qcrd.rationales.batch"
JOBS = "/v1/fine_tuning/jobs"

MakeSite = Callable[..., tuple[Here, FakeBatches]]


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[MakeSite]:
    made: list[FakeBatches] = []

    def make(*, has_routes: bool = True, **changes: Any) -> tuple[Here, FakeBatches]:
        provider = FakeBatches(adds, key=KEY, has_routes=has_routes)
        made.append(provider)
        given = {"url": provider.url, "api": "openai", "model": "m", "api_key": SecretStr(KEY)}
        teachers = TeacherSettings(teachers={"default": TeacherConfig(**{**given, **changes})})
        return Here(tmp_path / f"models-{len(made)}", teachers=teachers), provider

    yield make
    for provider in made:
        provider.close()


def create(here: Here, batch: bool | None, **top: Any) -> Any:
    rationales = {} if batch is None else {"batch": batch}
    return here.create(here.file(sums(5)), {"rationales": {"n": 1, **rationales}}, **top)


def test_a_teacher_with_the_routes_is_taken(make_site: MakeSite) -> None:
    here, provider = make_site()
    answer = create(here, True)
    assert answer.status_code == 200, answer.text
    assert "GET /v1/batches" in provider.seen
    assert answer.json()["method"]["qcrd"]["rationales"]["batch"] is True


@pytest.mark.parametrize(("said", "configured"), [(True, False), (None, True)])
def test_one_without_them_is_refused(
    said: bool | None, configured: bool, make_site: MakeSite
) -> None:
    here, _ = make_site(has_routes=False, batch=configured)
    message = refused(create(here, said), 400, "no_batches", BATCH)
    assert "has no routes for batches: GET /batches responds 404" in message
    assert ("QCRD_TEACHERS" in message) == configured
    assert create(here, False).status_code == 200


def test_one_that_is_away_is_no_reason_to_refuse(make_site: MakeSite) -> None:
    here, provider = make_site(batch=True)
    provider.close()
    assert create(here, None).status_code == 200


def test_a_tgi_teacher_has_none(make_site: MakeSite) -> None:
    here, _ = make_site(api="tgi")
    message = refused(create(here, True), 400, "no_batches", BATCH)
    assert "TGI" in message


def test_an_estimate_is_of_the_price_of_batches_and_says_so(make_site: MakeSite) -> None:
    here, _ = make_site(**PRICES, batch_factor=0.25)
    costs = {}
    for batch in (False, True):
        method = {"type": "qcrd", "qcrd": {"task": {"answer": "number"}}}
        method["qcrd"]["rationales"] = {"n": 1, "batch": batch}  # type: ignore[index]
        body = {"model": "tiny", "training_file": here.file(sums(5)), "method": method}
        teacher = here.client.post(f"{JOBS}/estimate", json=body).json()["teacher"]
        costs[batch] = teacher["cost_at_most"]
        assert ("by batch: at 0.25 of the price, within a day" in teacher["basis"]) == batch
    assert costs[True] == pytest.approx(costs[False] / 4)


def test_a_budget_of_one_request_by_batch_is_enough_at_its_price(make_site: MakeSite) -> None:
    """A request can take 256 new tokens at 2 and a prompt of less than 300 at 1: at half of it,
    between 256 and 406 millionths."""
    here, _ = make_site(**PRICES)
    budget = {"cost": 410 / 1e6}
    refused(create(here, False, budget=budget), 400, "budget_too_small", "budget.cost")
    assert create(here, True, budget=budget).status_code == 200


def test_a_new_budget_has_to_cover_what_is_out(make_site: MakeSite) -> None:
    here, _ = make_site(**PRICES)
    job = here.jobs.get(create(here, True).json()["id"])
    buffer = get_service(here.app, Gateway).shared.generation_buffer
    account = TokenAccount(buffer, job)
    account.reserve_shard(f"shard-{keys.digest('x')}", Tokens(100, 200).by_batch())
    account.flush()
    here.client.post(f"{JOBS}/{job.id}/pause").raise_for_status()
    for budget, code in ({"teacher_tokens": 299}, 400), ({"cost": 0.000249}, 400):
        answer = here.client.post(f"{JOBS}/{job.id}/resume", json={"budget": budget})
        assert answer.status_code == code
        assert answer.json()["error"]["code"] == "budget_exceeded"
    # (100 + 2 · 200) / 2 = 250 millionths
    budget = {"teacher_tokens": 300, "cost": 0.000251}
    answer = here.client.post(f"{JOBS}/{job.id}/resume", json={"budget": budget})
    assert answer.status_code == 200, answer.text
    assert here.jobs.get(job.id).budget.teacher_tokens == 300
