"""The control: a score that knows nothing. Whatever a run learns from it, it did not learn from its reward."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from torch import Tensor

from configs.verifiers import RandomReward
from reward_server.verifiers.base import LocalVerifier, judge_each
from unigrpo.types import Prompt, Score, ScoreFailure


class RandomVerifier(LocalVerifier):
    """Draws a number from the picture's bytes: the same picture always gets the same one."""

    breakdown_keys = frozenset({"random"})

    def __init__(self, config: RandomReward) -> None:
        pass

    @staticmethod
    def validate_metadata(config: RandomReward, metadata: Mapping[str, Any]) -> None:
        """Every prompt will do."""

    def score(self, prompts: Sequence[Prompt], images: Sequence[Tensor]) -> list[Score | ScoreFailure]:
        return judge_each(_judge, prompts, images)


def _judge(prompt: Prompt, image: Tensor) -> Score:
    value = uniform(image)
    return Score(value=value, breakdown={"random": value})


def uniform(image: Tensor) -> float:
    """A number in [0, 1) that looks uniform over pictures, a function of the shape and bytes of a uint8 picture alone."""
    content = str(tuple(image.shape)).encode() + image.contiguous().numpy().tobytes()
    return (int.from_bytes(blake2b(content, digest_size=8).digest()) >> 11) * 2.0**-53
