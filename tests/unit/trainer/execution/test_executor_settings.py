"""A worker that cannot have the executor that it is asked for ends at its start, and says why."""

from __future__ import annotations

import pytest

from qcrd.runtime.settings import load_settings
from services.trainer.execution.factory import check_executor
from services.trainer.settings import KubeflowSettings, NodeSettings, TrainerSettings


def test_trainings_run_here_unless_something_else_is_asked_for() -> None:
    assert TrainerSettings().executor == "local"
    check_executor(TrainerSettings())


def test_outside_a_cluster_the_namespace_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCRD_EXECUTOR", "kubeflow")
    with pytest.raises(SystemExit, match=r"QCRD_KUBEFLOW_NAMESPACE.*mount the token$"):
        load_settings(lambda: check_executor(TrainerSettings()))
    monkeypatch.setenv("QCRD_KUBEFLOW_NAMESPACE", "qcrd")
    check_executor(TrainerSettings())
    assert KubeflowSettings().namespace == "qcrd"


def test_a_machine_s_place_is_read_from_torchrun_s_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PET_NNODES", "2")
    with pytest.raises(SystemExit, match="PET_MASTER_ADDR"):
        load_settings(NodeSettings)
    monkeypatch.setenv("PET_MASTER_ADDR", "job-1-node-0-0.job-1")
    monkeypatch.setenv("PET_NODE_RANK", "1")
    node = NodeSettings()
    assert (node.nnodes, node.node_rank, node.master_port) == (2, 1, 29400)
