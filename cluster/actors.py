"""The plain classes of every role as Ray actors: the only place that makes them remote.

An actor adds to its class only what Ray needs: references resolved, results split into objects that travel on their own.
"""

import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from configs.roles import Placement
from configs.schema import SftConfig, TrainConfig
from learner.batch import MiniBatch
from learner.learner import Learner
from reward_server.server import RewardServer
from rollout_workers.denoiser import Denoiser
from rollout_workers.reasoner import Reasoner
from unigrpo.types import Painting, Prompt, Score, ScoreFailure, Thought, Trajectory


class ReasonerActor(Reasoner):
    """A reasoner that takes its weights by reference."""

    def load(self, version: int, buckets: Sequence[ObjectRef]) -> int:  # type: ignore[override]
        super().load(version, ray.get(list(buckets)))
        return version


class DenoiserActor(Denoiser):
    """A denoiser that takes its weights by reference and leaves every trajectory as an object of its own."""

    def load(self, version: int, buckets: Sequence[ObjectRef]) -> int:  # type: ignore[override]
        super().load(version, ray.get(list(buckets)))
        return version

    def paint(self, *args: Any) -> tuple[Any, ...]:  # type: ignore[override]
        ...


class RewardActor(RewardServer):
    """A reward server that judges the siblings of one prompt."""

    def judge(self, prompt: Prompt, paintings: Sequence[Painting]) -> list[Score | ScoreFailure]:
        """One verdict a sibling."""
        return self.score([prompt] * len(paintings), [painting.image_HW3 for painting in paintings])


class LearnerActor:
    """One learner rank; it is constructed in two steps, since rank 0's address is known only where it was placed."""

    def __init__(self, config: TrainConfig | SftConfig, rank: int, world_size: int) -> None:
        self._config, self._rank, self._world_size = config, rank, world_size

    def address(self) -> tuple[str, int]:
        """Host and a free port of this rank, for the process group."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def start(self, host: str, port: int) -> None:
        """Join the process group and build model and optimizer."""
        self._learner = Learner(self._config, self._rank, self._world_size, host, port)

    def publish(self, version: int) -> list[ObjectRef]:
        """References to the buckets (none from ranks other than 0)."""
        return [ray.put(bucket) for bucket in self._learner.publish(version)]
