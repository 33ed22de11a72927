"""The plain classes of every role as Ray actors: the only place that makes them remote.

An actor adds to its class only what Ray needs: references resolved, results split into objects that travel on their own.
"""

import gc
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.placement import Role, reserve
from cluster.spans import Chain, Sent, unloaded
from configs.roles import ClusterConfig
from configs.schema import SftConfig, TrainConfig
from learner.batch import SftExample
from learner.learner import Learner
from reward_server.server import Judgement, RewardServer
from rollout_workers.denoiser import Denoiser
from rollout_workers.reasoner import Reasoner
from unigrpo.types import Painting, Prompt, Thought

R = TypeVar("R")


class Built(Generic[R]):
    """An actor whose object is built by a call: what a call raises reaches the driver as itself, what a constructor raises as
    text only; and a worker that Ray started again is built from what the system serves now, not from what it was first.
    """

    kind: Callable[..., R]
    _object: R

    def __init__(self) -> None:
        self._arguments: tuple[Any, ...] | None = None

    @property
    def built(self) -> R:
        """The plain object."""
        assert self._arguments is not None, "start() comes first"
        return self._object

    def start(self, *arguments: Any) -> None:
        """Build it, or let it be where it was built from these very arguments."""
        if self._arguments != arguments:
            if self._arguments is not None:
                self._arguments = None
                del self._object  # before the next one takes its place in memory
            self._object = self.kind(*arguments)
            self._arguments = arguments


class ReasonerActor(Built[Reasoner]):
    """A reasoner that takes its weights by reference."""

    kind = Reasoner

    def start(self, *arguments: Any) -> None:
        """Start the engine, which then serves every config that asks for the same (`Role.keeps`)."""
        if self._arguments is None:
            super().start(*arguments)

    def load(self, config: TrainConfig, version: int, buckets: Sequence[ObjectRef]) -> None:
        """`Reasoner.load`; of a worker that was started again, first the engine."""
        self.start(config)
        self.built.load(version, ray.get(list(buckets)))

    def think(self, *arguments: Any) -> list[list[Thought]]:
        """`Reasoner.think`."""
        return self.built.think(*arguments)


class DenoiserActor(Built[Denoiser]):
    """A denoiser that takes its weights by reference and leaves every picture and trajectory as an object of its own."""

    kind = Denoiser

    def describe(self) -> str:
        """`Denoiser.describe`."""
        return self.built.describe()

    def load(self, config: TrainConfig, version: int, buckets: Sequence[ObjectRef]) -> None:
        """`Denoiser.load`; of a worker that was started again, first the model."""
        self.start(config)
        self.built.load(version, ray.get(list(buckets)))

    def see(self, pictures: Sequence[tuple[Path, int]]) -> tuple[Any, ...]:
        """`Denoiser.see`, cut up: the numbers of tokens, every picture."""
        seen, sizes = self.built.see(pictures)
        return (sizes, *seen)

    def think(
        self, given: Sequence[Sequence[Sent]], seeds: Sequence[Sequence[int]], temperature: float, version: int, *objects: Any
    ) -> list[list[Thought]]:
        """`Denoiser.think`."""
        return self.built.think([unloaded(spans, objects) for spans in given], seeds, temperature, version)

    def paint_groups(
        self, num_groups: int, contexts: Sequence[Sequence[Sent]], arguments: tuple[Any, ...], *objects: Any
    ) -> tuple[Any, ...]:
        """`Denoiser.paint`, cut up: a sign that it is done, the paintings of each of `num_groups` prompts, every trajectory."""
        paintings, trajectories = self.built.paint([unloaded(spans, objects) for spans in contexts], *arguments)
        size = len(paintings) // num_groups
        return (None, *(paintings[group * size : (group + 1) * size] for group in range(num_groups)), *trajectories)


class RewardActor(Built[RewardServer]):
    """A reward server of one verifier that judges siblings of one prompt."""

    kind = RewardServer

    def judge(self, prompt: Prompt, paintings: Sequence[Painting], places: Sequence[int]) -> Judgement:
        """Verdicts on those `places` of `paintings`."""
        return self.built.judge([prompt] * len(places), [paintings[place].image_HW3 for place in places])


class LearnerActor:
    """One learner rank; it is built by `join`, since rank 0's address is known only where it was placed.

    The process group stays when the next config comes.
    """

    _learner: Learner

    def start(self, config: TrainConfig | SftConfig, rank: int, world_size: int) -> None:
        """Take the config; the rest needs the other ranks. What was learned before is let go."""
        if hasattr(self, "_learner"):
            del self._learner
            gc.collect()  # an engine and its optimizer hold each other
        self._config, self._rank, self._world_size = config, rank, world_size

    def address(self) -> tuple[str, int]:
        """Host and a free port of this rank, for the process group."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def join(self, host: str, port: int) -> str:
        """Join the process group and build model and optimizer; how this rank computes."""
        self._learner = Learner(self._config, self._rank, self._world_size, host, port)
        return self._learner.describe()

    def update(self, step: int, mini_batches: Sequence[Sequence[Chain]], *objects: Any) -> dict[str, float]:
        """`Learner.update` from samples."""
        return self._learner.update(step, [[chain.sample(objects) for chain in chains] for chains in mini_batches])

    def fit(self, step: int, examples: Sequence[SftExample]) -> dict[str, float]:
        """`Learner.update` from examples, which are one mini-batch."""
        return self._learner.update(step, [examples])

    def publish(self, version: int) -> list[ObjectRef]:
        """References to the buckets (none from ranks other than 0)."""
        return [ray.put(bucket) for bucket in self._learner.publish(version)]

    def save(self, step: int) -> None:
        """Write a checkpoint together with the other ranks."""
        self._learner.save(step)

    def restore(self) -> int:
        """Load the newest complete checkpoint; its step, or 0."""
        return self._learner.restore()


def place(role: Role, config: ClusterConfig) -> list[ActorHandle]:
    """The workers of a role in a placement group of its own, not built yet. Raises Stalled when others use the cluster."""
    placement = role.placement
    group = reserve(role.ask, timeout=config.start_timeout)
    return [
        ray.remote(role.actor)
        .options(
            num_cpus=placement.num_cpus,
            num_gpus=placement.num_gpus,
            resources=placement.resources,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
            runtime_env={"env_vars": dict(role.environment)},
            max_restarts=role.restarts,
        )
        .remote()
        for index in range(role.num_workers)
    ]
