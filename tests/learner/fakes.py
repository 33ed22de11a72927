"""A reward model without weights, for pictures of any size."""

from collections.abc import Sequence

import torch
from torch import Tensor

from unigrpo.reward_models.base import RewardModel, require_pairs


class FakeRewardModel(RewardModel):
    """Likes light where the prompt says so: the score is a sigmoid of the picture against a pattern that the prompt seeds."""

    def score(self, prompts: Sequence[str], images_S3HW: Tensor) -> Tensor:
        require_pairs(prompts, images_S3HW)
        pattern_S3HW = torch.stack([pattern(prompt, images_S3HW.shape[1:]) for prompt in prompts])
        return (4 * (pattern_S3HW * images_S3HW).mean((1, 2, 3))).sigmoid()

    def require_size(self, height: int, width: int) -> None:
        if height > 64:
            raise ValueError(f"the picture is {height} pixels high; 64 are allowed")

    def require_prompt(self, prompt: str) -> None:
        """Any will do."""


def pattern(prompt: str, shape_3HW: Sequence[int]) -> Tensor:
    """[3, H, W] standard normal, the same for the same prompt."""
    return torch.randn(tuple(shape_3HW), generator=torch.Generator().manual_seed(sum(prompt.encode())))
