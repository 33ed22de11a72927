"""Where roles run: the Ray that is started or joined, and one placement group a role."""

import importlib.util
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group

from cluster.faults import Fault, Stalled
from configs.load import ConfigError
from configs.roles import ClusterConfig, Placement

PACKAGES = ("configs", "unigrpo", "rollout_workers", "reward_server", "learner", "cluster")
KNOCK_TIMEOUT = 10.0
"""Seconds that the head of a cluster may take to answer."""


def connect(config: ClusterConfig) -> None:
    """Start a fresh Ray on this machine, or join the one at `cluster.address`; actors get this project's own packages.

    Raises ConfigError when nothing answers at the address, and Fault when a fresh Ray does not start.
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
    except Exception as error:
        if config.address == "local":
            raise Fault(f"Ray did not start: {error}; if this machine is busy, run the same command again") from error
        if not isinstance(error, ConnectionError):
            raise
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


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What one role wants of the cluster."""

    role: str
    """Names the config section in errors."""
    placement: Placement
    num_workers: int

    @property
    def bundle(self) -> dict[str, float]:
        """Resources of one worker."""
        wanted = {"CPU": self.placement.num_cpus, "GPU": self.placement.num_gpus, **self.placement.resources}
        return {name: amount for name, amount in wanted.items() if amount}


@dataclass(frozen=True, kw_only=True)
class Role:
    """How many workers of one kind are wanted, and how each is made."""

    name: str
    """The config section, for messages and placement."""
    actor: type
    placement: Placement
    num_workers: int
    arguments: Callable[[int], tuple[Any, ...]]
    """What worker i is built from."""
    environment: Mapping[str, str]
    restarts: int = -1
    """How often Ray starts a lost worker again; -1 for ever, 0 where its state cannot be refilled."""
    keeps: Mapping[str, object]
    """What a started worker cannot take another of, by config key; beside its placement, their number and the environment."""

    @property
    def ask(self) -> Ask:
        """What it wants of the cluster."""
        return Ask(role=self.name, placement=self.placement, num_workers=self.num_workers)


def require_room(asks: Sequence[Ask], total: Mapping[str, float]) -> None:
    """Raise ConfigError, listing every role's ask, when all of them together want more of something than `total` holds."""
    faults = []
    for name in dict.fromkeys(name for ask in asks for name in ask.bundle):
        takers = [ask for ask in asks if name in ask.bundle]
        wanted = round(fsum(ask.num_workers * ask.bundle[name] for ask in takers), 4)  # Ray counts in 1/10,000
        held = total.get(name, 0.0)
        if wanted > held:
            listed = ", ".join(f"{ask.role} {ask.num_workers} x {ask.bundle[name]:g}" for ask in takers)
            faults.append(f"the roles ask for {wanted:g} {name} ({listed}), but the Ray cluster has {held:g} in all")
    if faults:
        raise ConfigError(f"{'; '.join(faults)}; lower num_workers, num_ranks or placement of a role, or add nodes")


def reserve(ask: Ask, *, timeout: float) -> PlacementGroup:
    """A placement group with one bundle a worker.

    timeout: seconds. Raises Stalled when no nodes with room for it are free by then.
    """
    group = placement_group([ask.bundle] * ask.num_workers, strategy=ask.placement.strategy)
    if not group.wait(timeout):
        free = ray.available_resources()
        raise Stalled(
            f"{ask.role} was not placed in {timeout:g} s: it asks for {ask.num_workers} x {ask.bundle}, free are "
            f"{ {name: free.get(name, 0.0) for name in ask.bundle} }; free some resources or lower {ask.role}.placement"
        )
    return group


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent
