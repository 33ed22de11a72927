"""The learner's ranks as one learner: `update`, `publish`, `save`, `restore`.

Shapes: P prompts, G paintings of one prompt, M thoughts of one prompt.
"""

from collections.abc import Sequence
from typing import Any

from ray import ObjectRef
from ray.actor import ActorHandle

from cluster.advantages import advantages_of
from cluster.faults import Unscored
from cluster.rollouts import Group
from cluster.sharding import shard, split
from cluster.spans import Chain, Freight, Held, Kept, Sent
from cluster.wait import wait_all
from configs.reward import Reward
from learner.batch import SftExample


class LearnerGroup:
    """Every call goes to all ranks at once, since most are collective."""

    def __init__(self, ranks: Sequence[ActorHandle], *, timeout: float, reward: Reward | None = None) -> None:
        """`reward` decides how scores become advantages; fine-tuning has none."""
        self.ranks, self._timeout, self._reward = ranks, timeout, reward

    def restore(self) -> int:
        """Load the newest complete checkpoint on every rank; the step it was written at, 0 if there is none."""
        steps = self._all("restore")
        assert len(set(steps)) == 1, f"ranks restored different steps: {steps}"
        return int(steps[0])

    def update(self, step: int, groups_P: Sequence[Group], *, mini_batches: int) -> dict[str, Any]:
        """Learn from judged groups: advantages within each, whole groups to a mini-batch, samples over ranks by cost.

        Raises Unscored when no group is left: there is nothing to learn, and something is wrong with the reward.
        """
        if not groups_P:
            raise Unscored(f"every group of step {step} was dropped for a failed score; see the reward actors' logs")
        assert self._reward is not None, "reinforcement learning has a reward"
        thought_PM, image_PG = (advantages.tolist() for advantages in advantages_of(groups_P, self._reward))
        shares: list[list[list[Chain[Sent]]]] = [[] for _ in self.ranks]
        freights = [Freight() for _ in self.ranks]
        for places in split(range(len(groups_P)), mini_batches):
            chains = [chain for place in places for chain in chains_of(groups_P[place], thought_PM[place], image_PG[place])]
            costs = [float(num_tokens(chain.spans)) for chain in chains]
            for rank, indices in enumerate(shard(costs, len(self.ranks))):
                shares[rank].append([chains[index].loaded(freights[rank]) for index in indices])
        calls = {
            f"update {step} on learner rank {rank}": actor.update.remote(step, shares[rank], *freights[rank].refs)
            for rank, actor in enumerate(self.ranks)
        }
        return dict(wait_all(calls, timeout=self._timeout)[0])

    def fit(self, step: int, shares: Sequence[Sequence[SftExample]]) -> dict[str, Any]:
        """One supervised update; each rank's share of the examples."""
        calls = {
            f"fit {step} on learner rank {rank}": actor.fit.remote(step, share)
            for rank, (actor, share) in enumerate(zip(self.ranks, shares, strict=True))
        }
        return dict(wait_all(calls, timeout=self._timeout)[0])

    def publish(self, step: int) -> list[ObjectRef]:
        """References to the weights in buckets, as version `step`."""
        return list(self._all("publish", step)[0])

    def save(self, step: int) -> None:
        """Write a checkpoint of `step`."""
        self._all("save", step)

    def _all(self, verb: str, *arguments: Any) -> list[Any]:
        calls = {
            f"{verb} on learner rank {rank}": getattr(actor, verb).remote(*arguments) for rank, actor in enumerate(self.ranks)
        }
        return wait_all(calls, timeout=self._timeout)


def chains_of(group: Group, thought_M: Sequence[float], image_G: Sequence[float]) -> list[Chain[Held]]:
    """A chain for each thought with all that was painted of it, or for each painting where nothing was thought.

    thought_M, image_G: advantages of thoughts and paintings, as advantages_of gives them.
    """
    contexts = [(*group.given, thought) for thought in group.thoughts] or [group.given] * len(group.scores)
    chains = []
    for number, spans in enumerate(contexts):
        painted = slice(number * group.images_per_thought, (number + 1) * group.images_per_thought)
        trajectories = [Kept(trajectory, 0) for trajectory in group.trajectories[painted]]
        of_thought = thought_M[number : number + 1] if group.thoughts else ()
        of_images = image_G[painted] if trajectories else ()
        chains.append(Chain(prompt=group.prompt.text, spans=(*spans, *trajectories), advantages=(*of_thought, *of_images)))
    return chains


def num_tokens(spans: Sequence[Held]) -> int:
    """Tokens of texts, and of given pictures as their splits count them: what makes one sample cost more than another, as all
    of a step have equally many paintings of one size and wrap as many texts.
    """
    return sum(span.num_tokens if isinstance(span, Kept) else len(span.token_ids) for span in spans)
