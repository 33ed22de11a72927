"""Rewards, one variant a verifier."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from configs.base import Section
from configs.roles import Placement


class Judge(Section):
    """What every reward has: how many actors judge, and where."""

    num_workers: PositiveInt = 1
    """Reward actors."""
    placement: Placement = Placement()


class GenevalJudge(Judge):
    """GenEval's three scores, none of them chosen: what evaluations report."""

    kind: Literal["geneval"] = "geneval"
    detector: Literal["shapes"] | None = None
    """What finds the objects: `shapes` reads the pixels of the shapes world; null is still to be given."""


class TrainingReward(Judge):
    """What a reward has that trains."""

    max_retries: NonNegativeInt = 1
    """Times a failed score is asked again before its group is dropped; of evaluations' scores too."""


class GenevalReward(TrainingReward, GenevalJudge):
    score: Literal["graded", "strict", "geneval"] = "graded"
    """Which score trains: share of strict clauses, all of them, or GenEval's own verdict."""


class RandomReward(TrainingReward):
    """The control: a score that knows nothing, drawn from the picture's bytes."""

    kind: Literal["random"] = "random"


Reward = Annotated[GenevalReward | RandomReward, Field(discriminator="kind")]
