"""The reward of a run: one verifier, or several combined."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from configs.verifiers import Judge, Policy, Verifier

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Weight = Annotated[float, Field(ge=-1e6, le=1e6)]


class CombinedReward(Policy):
    """Several verifiers, each with actors of its own; every one judges every picture."""

    kind: Literal["combined"] = "combined"
    parts: dict[Name, Verifier] = Field(min_length=2)
    """The verifiers, by a name of the user's."""
    weights: dict[Name, Weight]
    """What each counts; one for every part, and none 0."""
    combine: Literal["scores", "advantages"] = "scores"
    """`scores` adds weighted scores; `advantages` normalises each part within its group first (GDPO, arXiv:2601.05242)."""

    @model_validator(mode="after")
    def _every_key_counts(self) -> Self:
        if self.parts.keys() != self.weights.keys():
            raise ValueError(f"weights are given for {sorted(self.weights)}, but the parts are {sorted(self.parts)}")
        if idle := [name for name, weight in self.weights.items() if weight == 0]:
            raise ValueError(f"weights of {', '.join(idle)} are 0, so that they judge for nothing; leave them out")
        for name, part in self.parts.items():
            if useless := sorted(key for key, field in Policy.model_fields.items() if getattr(part, key) != field.default):
                raise ValueError(f"parts.{name} sets {', '.join(useless)}, which the combined reward decides; set it there")
        return self


Reward = Annotated[Verifier | CombinedReward, Field(discriminator="kind")]


def parts_of(reward: Reward) -> dict[str, Judge]:
    """Its verifiers by name; a reward that is one verifier is the part called by its kind."""
    return dict(reward.parts) if isinstance(reward, CombinedReward) else {reward.kind: reward}
