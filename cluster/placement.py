"""Where roles run: the Ray that is started or joined, and one placement group a role."""

import importlib.util
import socket
from pathlib import Path

import ray
from ray.util.placement_group import PlacementGroup, placement_group

from cluster.wait import Stalled
from configs.load import ConfigError
from configs.roles import ClusterConfig, Placement

PACKAGES = ("configs", "unigrpo", "rollout_workers", "reward_server", "learner", "cluster")
KNOCK_TIMEOUT = 10.0
"""Seconds that the head of a cluster may take to answer."""


def connect(config: ClusterConfig) -> None:
    """Start a fresh Ray on this machine, or join the one at `cluster.address`; actors get this project's own packages.

    Raises ConfigError when nothing answers at the address.
    """
    local = {"include_dashboard": False} if config.address == "local" else {}
    try:
        if config.address not in ("local", "auto"):
            _knock(config.address)
        ray.init(
            address=config.address,
            runtime_env={"py_modules": [str(_folder(name)) for name in PACKAGES], "excludes": ["**/__pycache__/**"]},
            log_to_driver=False,
            logging_level="ERROR",
            **local,
        )
    except ConnectionError as error:
        raise ConfigError(
            f"cluster.address is {config.address}, and no Ray answers there ({error}); start one with `ray start --head`, "
            "or use cluster.address=local"
        ) from None


def _knock(address: str) -> None:
    """Raises ConnectionError when nothing listens at host:port; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_TIMEOUT).close()
    except (OSError, ValueError) as error:
        raise ConnectionError(error) from None


def reserve(role: str, placement: Placement, num_workers: int, *, timeout: float) -> PlacementGroup:
    """A placement group with one bundle a worker.

    role: names the config section in errors. timeout: seconds. Raises ConfigError when the cluster holds less than is asked,
    Stalled when it holds enough but others use it.
    """
    bundle = {"CPU": placement.num_cpus, "GPU": placement.num_gpus, **placement.resources}
    bundle = {name: amount for name, amount in bundle.items() if amount}
    total = ray.cluster_resources()
    for name, amount in bundle.items():
        if amount * num_workers > total.get(name, 0):
            raise ConfigError(
                f"{role} asks for {num_workers} x {amount:g} {name}, but the Ray cluster has {total.get(name, 0):g} in all; "
                f"lower {role}.num_workers/num_ranks or {role}.placement, or add nodes"
            )
    group = placement_group([bundle] * num_workers, strategy=placement.strategy)
    if not group.wait(timeout):
        free = ray.available_resources()
        raise Stalled(
            f"{role} was not placed in {timeout:g} s: it asks for {num_workers} x {bundle}, free are "
            f"{ {name: free.get(name, 0.0) for name in bundle} }; free some resources or lower {role}.placement"
        )
    return group


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent
