"""A small reward model of the shapes world, trained on generated pictures: what `unigrpo reward fit` reads."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from configs.base import AbsolutePath, Section


class RewardModelConfig(Section):
    task: Literal["reward_model"] = "reward_model"
    seed: NonNegativeInt = 0
    """Seeds weights and data."""
    run_dir: AbsolutePath
    """Folder that the reward model is written to; it must not hold one."""
    pictures: PositiveInt = 12288
    """Labelled pictures made before training; those that its own gradient leads to are added while it goes on."""
    steps: PositiveInt = 2000
    """Optimizer updates."""
    batch_size: PositiveInt = 64
    """Pictures of one update."""
    learning_rate: PositiveFloat = 3e-3
    """Peak AdamW rate."""
    agreement_prompts: int = Field(default=300, ge=10, le=300)
    """Held-out prompts on whose pictures the agreement with the verifier is measured."""
    num_threads: PositiveInt = 1
    """Threads of torch."""
