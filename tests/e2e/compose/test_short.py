"""From nothing to a distilled student, and the same one with two parts killed on the way."""

from __future__ import annotations

import json

import pytest

from qcrd.records.rationales import Prediction
from tests.e2e.compose.stack import OWN_IMAGES, Stack, step

pytestmark = [pytest.mark.compose, pytest.mark.timeout(3600)]

BASE_BYTES = 125_000_000
"""Of the Debian image with Python that releases are built on; ours here may be another."""
GATEWAY_BYTES = 350_000_000
ALL_BYTES = 2_500_000_000


def layers(stack: Stack, image: str) -> dict[str, int]:
    """Bytes of an image's own layers, from the first after its base, by their chain."""
    lines = stack.docker("history", "--no-trunc", "--human=false", "--format", "{{json .}}", image)
    made, chain = {}, ""
    history = [json.loads(line) for line in reversed(lines.splitlines())]
    ours = next(n for n, entry in enumerate(history) if "PYTHONUNBUFFERED" in entry["CreatedBy"])
    for entry in history[ours:]:
        chain += entry["CreatedBy"] + entry["Size"]
        made[chain] = int(entry["Size"])
    return made


def test_sizes_and_what_final_images_lack(stack: Stack) -> None:
    found = {image: layers(stack, image) for image in OWN_IMAGES}
    together = {chain: size for image in found.values() for chain, size in image.items()}
    sizes = {image: sum(own.values()) for image, own in found.items()}
    print("compose: own layers in MB:", {i: size // 10**6 for i, size in sizes.items()})
    print(f"compose: all layers together {sum(together.values()) // 10**6} MB, without the base")
    assert sizes["qcrd-api"] + BASE_BYTES < GATEWAY_BYTES
    assert sum(together.values()) + BASE_BYTES < ALL_BYTES
    look = (
        "import importlib.util as u, shutil, os; "
        "print([n for n in ('torch', 'pip', 'ensurepip') if u.find_spec(n)], "
        "[c for c in ('pip', 'gcc', 'cc', 'ld') if shutil.which(c)], os.getuid())"
    )
    for image in OWN_IMAGES:
        torch = "" if image == "qcrd-api" else "'torch'"
        assert stack.docker("run", "--rm", image, "python", "-c", look) == f"[{torch}] [] 10001"


def test_every_container_is_hardened_and_bounded(stack: Stack) -> None:
    services = stack.compose("config", "--services").split()
    for service in services:
        host = json.loads(stack.inspect(service, "{{json .HostConfig}}"))
        user = stack.inspect(service, "{{.Config.User}}")
        assert host["CapDrop"] == ["ALL"], service
        assert host["ReadonlyRootfs"], service
        assert "no-new-privileges:true" in host["SecurityOpt"], service
        for limit in ("Memory", "NanoCpus", "PidsLimit"):
            assert host[limit] > 0, (service, limit)
        assert all("size=" in options for options in (host.get("Tmpfs") or {}).values()), service
        if service != "secrets":  # it makes files for users of several numbers
            assert int(user.split(":")[0]) > 0, service


@pytest.fixture(scope="module")
def calm(stack: Stack) -> list[Prediction]:
    with step("a job, undisturbed"):
        return stack.ended(stack.create())


def test_a_job_over_rest_distils_a_student(stack: Stack, calm: list[Prediction]) -> None:
    assert len(calm) == 13
    (model,) = stack.request("GET", "/v1/models")["data"][:1]
    assert model["id"].startswith("model-")
    assert stack.readiness()[0] == 200


def test_two_kills_change_no_prediction(stack: Stack, calm: list[Prediction]) -> None:
    with step("a job, its trainer and its judge killed"):
        job_id = stack.create()
        stack.wait_for_stage(job_id, "training", 1.0)
        stack.kill("trainer")
        stack.kill("discriminator")
        assert stack.ended(job_id) == calm
