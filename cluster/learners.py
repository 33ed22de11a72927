"""The learner's ranks as one learner: `update`, `publish`, `save`, `restore`."""

from collections.abc import Sequence
from typing import Any

import torch
from ray import ObjectRef
from ray.actor import ActorHandle

from cluster.rollouts import Group
from cluster.sharding import shard, split
from cluster.wait import wait_all
from configs.schema import TrainConfig
from unigrpo.algo.advantage import group_advantages, zero_variance


class LearnerGroup:
    """Every call goes to all ranks at once, since most are collective."""

    def __init__(self, ranks: Sequence[ActorHandle], *, timeout: float) -> None:
        self.ranks, self._timeout = ranks, timeout

    def restore(self) -> int:
        """Load the newest complete checkpoint on every rank; the step it was written at, 0 if there is none."""
        steps = self._all("restore")
        assert len(set(steps)) == 1, f"ranks restored different steps: {steps}"
        return steps[0]

    def publish(self, step: int) -> list[ObjectRef]:
        """References to the weights in buckets, as version `step`."""
        return self._all("publish", step)[0]

    def save(self, step: int) -> None:
        """Write a checkpoint of `step`."""
        self._all("save", step)

    def _all(self, verb: str, *args: Any) -> list[Any]:
        calls = {f"{verb} on learner rank {rank}": getattr(actor, verb).remote(*args) for rank, actor in enumerate(self.ranks)}
        return wait_all(calls, timeout=self._timeout)
