"""What a reward model is: a judge whose score carries gradients to the pixels, so that a painter can be led along them.

Verifiers (reward_server/verifiers) judge finished pictures; a reward model can also be asked in which direction a picture gets
better. Its own parameters are frozen: a score's gradient reaches the pixels and nothing else.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn


class RewardModel(nn.Module, ABC):
    """A frozen judge on the CPU in evaluation mode, to be moved by `to`. Shapes: S pictures, 3HW their channels and pixels."""

    @abstractmethod
    def score(self, prompts: Sequence[str], images_S3HW: Tensor) -> Tensor:
        """[S] scores in [0, 1], one a pair of prompt and picture, with gradients to the pixels.

        `images_S3HW` are floating-point in [0, 1]. Raises ValueError for another shape or number of pictures and for what
        `require_size` and `require_prompt` refuse.
        """

    @abstractmethod
    def require_size(self, height: int, width: int) -> None:
        """Raise ValueError, saying what is allowed, for a size of picture in pixels that this model cannot judge."""

    @abstractmethod
    def require_prompt(self, prompt: str) -> None:
        """Raise ValueError, saying what is allowed, for a prompt that this model cannot judge."""


def require_pairs(prompts: Sequence[str], images_S3HW: Tensor) -> None:
    """Raise ValueError unless there is one floating-point RGB picture a prompt."""
    shape = list(images_S3HW.shape)
    if len(shape) != 4 or shape[:2] != [len(prompts), 3] or not images_S3HW.is_floating_point():
        raise ValueError(
            f"got {len(prompts)} prompts and pictures {shape} {images_S3HW.dtype}; give floating-point [S, 3, H, W] in [0, 1], "
            "one picture a prompt"
        )
