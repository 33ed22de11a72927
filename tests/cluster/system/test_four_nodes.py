"""A run that joins a Ray cluster of four nodes: one node a role."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from cluster.loop import train
from cluster.placement import connect
from cluster.preflight import prepare
from cluster.system import build
from cluster.view import View
from cluster.wait import wait_all
from cluster.workers import Workers
from tests.cluster.system.runs import metrics_rows, run_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROLES = ("learner", "reasoner", "denoiser", "reward")
STORE = 100 << 20
"""Bytes of a node's object store."""


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Four nodes; each holds the resource that one role asks for."""
    nodes = [{"num_cpus": 1, "resources": {f"{role}_node": 1}, "object_store_memory": STORE} for role in ROLES]
    cluster = Cluster(initialize_head=True, head_node_args=nodes[0])
    try:
        for node in nodes[1:]:
            cluster.add_node(**node)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_roles_run_on_nodes_of_their_own(cluster: Cluster, start: Path, tmp_path: Path) -> None:
    placements = {f"{role}.placement": {"num_cpus": 0.5, "resources": {f"{role}_node": 1}} for role in ROLES}
    config = run_config(start, tmp_path, {"cluster.address": cluster.address, **placements})
    tokenizer = prepare(config, evaluates=False)
    connect(config.cluster)
    system = build(config, tokenizer, View(config.steps), Workers())
    train(system, config)
    assert [row["step"] for row in metrics_rows(tmp_path)] == [1, 2]
    assert (tmp_path / "checkpoints" / "step-000002" / "manifest.json").is_file()

    workers = {
        "learner": system.learner.ranks,
        "reasoner": system.rollouts.thinking.workers,
        "denoiser": system.rollouts.painting.workers,
        "reward": system.rollouts.judges["training"].workers["random"],
    }
    calls = {
        role: worker.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id())
        for role, [worker] in workers.items()
    }
    homes = dict(zip(calls, wait_all(calls, timeout=config.cluster.call_timeout), strict=True))
    nodes = {node["NodeID"]: node["Resources"] for node in ray.nodes()}
    assert {role: f"{role}_node" in nodes[home] for role, home in homes.items()} == dict.fromkeys(ROLES, True)
    assert len(set(homes.values())) == len(ROLES)
