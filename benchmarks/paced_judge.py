"""A judge whose verdicts take a set time and no processor: what waits on a judge elsewhere sees."""

import time
from collections.abc import Sequence

from torch import Tensor

from unigrpo.types import Prompt


class PacedJudge:
    """Takes `seconds` a picture, one after another."""

    bounds = (0.0, 1.0)

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def score(self, prompts: Sequence[Prompt], images: Sequence[Tensor]) -> list[float]:
        """The mean brightness of each picture."""
        time.sleep(self._seconds * len(images))
        return [float(image.float().mean()) / 255 for image in images]
