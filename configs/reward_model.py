"""A small reward model of the shapes world, trained on rendered pictures: what `unigrpo reward fit` reads."""

from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from configs.base import AbsolutePath, Section


class RewardModelConfig(Section):
    task: Literal["reward_model"] = "reward_model"
    seed: NonNegativeInt = 0
    """Seeds weights and data."""
    run_dir: AbsolutePath
    """Folder that the reward model is written to."""
    steps: PositiveInt = 2000
    """Optimizer updates."""
    batch_size: PositiveInt = 64
    """Pictures of one update."""
    learning_rate: PositiveFloat = 1e-3
    """AdamW rate."""
    num_threads: PositiveInt = 1
    """Threads of torch."""
