"""The plain classes of every role as Ray actors: the only place that makes them remote.

An actor adds to its class only what Ray needs: references resolved, results split into objects that travel on their own.
"""

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.placement import Ask, require_room, reserve
from cluster.spans import Chain, Sent, unloaded
from cluster.wait import wait_all
from configs.reward import Reward, parts_of
from configs.roles import ClusterConfig, Placement
from configs.schema import SftConfig, TrainConfig
from configs.verifiers import Judge
from learner.batch import SftExample
from learner.learner import Learner
from reward_server.server import Judgement, RewardServer
from rollout_workers.denoiser import Denoiser
from rollout_workers.reasoner import Reasoner, reasoner_environment
from unigrpo.types import Painting, Prompt, Thought

R = TypeVar("R")


class Built(Generic[R]):
    """An actor whose object is built by its first call: what a call raises reaches the driver as itself, what a constructor
    raises as text only.
    """

    kind: Callable[..., R]

    def __init__(self, *arguments: Any) -> None:
        self._arguments = arguments

    @cached_property
    def built(self) -> R:
        """The plain object."""
        return self.kind(*self._arguments)

    def start(self) -> None:
        """Build it."""
        assert self.built


class ReasonerActor(Built[Reasoner]):
    """A reasoner that takes its weights by reference."""

    kind = Reasoner

    def load(self, version: int, buckets: Sequence[ObjectRef]) -> None:
        """`Reasoner.load`."""
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

    def load(self, version: int, buckets: Sequence[ObjectRef]) -> None:
        """`Denoiser.load`."""
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
    """One learner rank; it is built by `join`, since rank 0's address is known only where it was placed."""

    def __init__(self, config: TrainConfig | SftConfig, rank: int, world_size: int) -> None:
        self._config, self._rank, self._world_size = config, rank, world_size

    def start(self) -> None:
        """Nothing yet: the rest needs the other ranks."""

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


@dataclass(frozen=True, kw_only=True)
class Role:
    """How many workers of one kind are wanted, and how each is made."""

    name: str
    """The config section, for messages and placement."""
    actor: type
    placement: Placement
    num_workers: int
    arguments: Callable[[int], tuple[Any, ...]]
    """Constructor arguments of worker i."""
    environment: Mapping[str, str]
    restarts: int = -1
    """How often Ray starts a lost worker again; -1 for ever, 0 where its state cannot be refilled."""


def start(roles: Sequence[Role], config: ClusterConfig) -> dict[str, list[ActorHandle]]:
    """Place every role in a placement group of its own and wait until all workers have started.

    Raises ConfigError when they ask for more than the cluster has, Stalled when others use it, and whatever a worker raised.
    """
    asks = [Ask(role=role.name, placement=role.placement, num_workers=role.num_workers) for role in roles]
    require_room(asks, ray.cluster_resources())
    groups = {ask.role: reserve(ask, timeout=config.start_timeout) for ask in asks}
    workers = {role.name: [_start(role, groups[role.name], index) for index in range(role.num_workers)] for role in roles}
    calls = {
        f"start of {name} {index}": worker.start.remote()
        for name, handles in workers.items()
        for index, worker in enumerate(handles)
    }
    wait_all(calls, timeout=config.start_timeout)
    return workers


def join_ranks(ranks: Sequence[ActorHandle], config: ClusterConfig) -> str:
    """Let the learner's ranks find each other and build model and optimizer; how they compute."""
    [(host, port)] = wait_all({"address of learner rank 0": ranks[0].address.remote()}, timeout=config.start_timeout)
    calls = {f"start of learner rank {rank}": actor.join.remote(host, port) for rank, actor in enumerate(ranks)}
    described = wait_all(calls, timeout=config.start_timeout)
    return "; ".join(dict.fromkeys(described))


def describe_denoisers(denoisers: Sequence[ActorHandle], config: ClusterConfig) -> str:
    """How the denoisers compute."""
    calls = {f"description of denoiser {index}": actor.describe.remote() for index, actor in enumerate(denoisers)}
    return "; ".join(dict.fromkeys(wait_all(calls, timeout=config.start_timeout)))


def learner_role(config: TrainConfig | SftConfig) -> Role:
    """The learner's ranks. A lost rank ends the run: its share of the optimizer is in the checkpoint only."""
    world_size = config.learner.num_ranks
    return Role(
        name="learner",
        actor=LearnerActor,
        placement=config.learner.placement,
        num_workers=world_size,
        arguments=lambda rank: (config, rank, world_size),
        environment=_threads(config.learner.placement)
        | ({} if config.learner.placement.num_gpus else {"DS_ACCELERATOR": "cpu"}),
        restarts=0,
    )


def reasoner_role(config: TrainConfig) -> Role:
    """The vLLM engines."""
    return Role(
        name="reasoner",
        actor=ReasonerActor,
        placement=config.reasoner.placement,
        num_workers=config.reasoner.num_workers,
        arguments=lambda _: (config,),
        environment=reasoner_environment(config),
    )


def denoiser_role(config: TrainConfig) -> Role:
    """The painters."""
    return Role(
        name="denoiser",
        actor=DenoiserActor,
        placement=config.denoiser.placement,
        num_workers=config.denoiser.num_workers,
        arguments=lambda _: (config,),
        environment=_threads(config.denoiser.placement),
    )


def reward_roles(name: str, reward: Reward) -> list[Role]:
    """The judges of training or of evaluations: one role for each verifier, named `name` or, of several, `name.parts.PART`."""
    parts = parts_of(reward)
    return [_judge_role(part_role(name, part, parts), judge) for part, judge in parts.items()]


def _judge_role(name: str, judge: Judge) -> Role:
    return Role(
        name=name,
        actor=RewardActor,
        placement=judge.placement,
        num_workers=judge.num_workers,
        arguments=lambda _: (judge,),
        environment=_threads(judge.placement),
    )


def part_role(name: str, part: str, parts: Mapping[str, Judge]) -> str:
    """The config section of one verifier."""
    return name if len(parts) == 1 else f"{name}.parts.{part}"


def _start(role: Role, group: PlacementGroup, index: int) -> ActorHandle:
    placement = role.placement
    return (
        ray.remote(role.actor)
        .options(
            num_cpus=placement.num_cpus,
            num_gpus=placement.num_gpus,
            resources=placement.resources,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index),
            runtime_env={"env_vars": dict(role.environment)},
            max_restarts=role.restarts,
        )
        .remote(*role.arguments(index))
    )


def _threads(placement: Placement) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(placement.num_threads)}
