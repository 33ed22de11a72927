"""The reward models by kind, and where the bundled one lies."""

from pathlib import Path
from typing import Literal

import unigrpo.shapes
from unigrpo.reward_models.base import RewardModel
from unigrpo.reward_models.shapes import load_shapes_reward
from unigrpo.reward_models.vlm import load_internvl_reward

Kind = Literal["shapes", "internvl"]

_LOADERS = {"shapes": load_shapes_reward, "internvl": load_internvl_reward}


def reward_model_folder(kind: Kind, path: Path | None) -> Path:
    """The folder meant: the one given, or for `shapes` the bundled one. Raises ValueError where there is none."""
    if path is not None:
        return path
    if kind != "shapes":
        raise ValueError(f"no reward model of kind {kind} is bundled; give the path of its folder")
    return Path(unigrpo.shapes.__path__[0]) / "reward_model"


def load_reward_model(kind: Kind, path: Path | None = None) -> RewardModel:
    """A frozen reward model on the CPU. Raises ValueError, naming what is missing, for a folder that holds no such model."""
    folder = reward_model_folder(kind, path)
    if not folder.is_dir():
        raise ValueError(f"the reward model's folder {folder} does not exist; give the path of one of kind {kind}")
    return _LOADERS[kind](folder)
