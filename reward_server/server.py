"""The reward server: one verifier, and the rule that a failure is never a number.

A plain class; cluster/actors.py makes it a Ray actor. It asks its verifier once a call and never retries: whoever calls knows
the other workers, and asks one of them again up to `reward.max_retries` times for the items that failed. What the caller did
wrong (lists of unequal length, something that is no picture) is raised; what goes wrong while judging is a ScoreFailure.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from configs.reward import Reward
from reward_server.verifiers import VERIFIERS
from unigrpo.types import Prompt, Score, ScoreFailure

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """What one server was asked since it started. Example: Tally(asked=64, failed=1)."""

    asked: int
    """Verdicts asked for; an item that is asked again counts again."""
    failed: int
    """Of these, answered with a ScoreFailure."""


class RewardServer:
    """Judges pictures with the configured verifier."""

    def __init__(self, config: Reward) -> None:
        self._kind = config.kind
        self._verifier = VERIFIERS[config.kind](config)
        self._asked = 0
        self._failed = 0

    def score(self, prompts: Sequence[Prompt], images: Sequence[Tensor]) -> list[Score | ScoreFailure]:
        """One verdict an item, in order: a score whose numbers are all finite, or a failure that quotes the reason.

        `images` are [H, W, 3] uint8 on the CPU, H and W free. Raises ValueError for lists of unequal length or another kind
        of image.
        """
        if len(prompts) != len(images):
            raise ValueError(f"got {len(prompts)} prompts and {len(images)} images; give one prompt an image")
        for image in images:
            if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.device.type != "cpu":
                raise ValueError(
                    f"got an image {list(image.shape)} {image.dtype} on {image.device}; give [H, W, 3] uint8 on cpu"
                )
        verdicts = [self._checked(verdict) for verdict in self._ask(prompts, images)]
        self._asked += len(verdicts)
        self._failed += sum(isinstance(verdict, ScoreFailure) for verdict in verdicts)
        return verdicts

    def tally(self) -> Tally:
        """Verdicts asked for and failed so far."""
        return Tally(asked=self._asked, failed=self._failed)

    def _ask(self, prompts: Sequence[Prompt], images: Sequence[Tensor]) -> Sequence[object]:
        """The verifier's answers as they come; one failure an item when it breaks or answers another number of them."""
        try:
            answers = self._verifier.score(prompts, images)
        except Exception as error:
            log.exception("verifier %s failed on %d pictures", self._kind, len(images))
            return [ScoreFailure(reason=f"{self._kind}: {type(error).__name__}: {error}")] * len(images)
        if len(answers) != len(images):
            reason = f"{self._kind} answered {len(answers)} verdicts for {len(images)} pictures"
            return [ScoreFailure(reason=reason)] * len(images)
        return answers

    def _checked(self, answer: object) -> Score | ScoreFailure:
        """The answer itself when it can be trusted, else a failure that quotes it."""
        if isinstance(answer, ScoreFailure):
            return answer
        if not isinstance(answer, Score):
            return ScoreFailure(reason=f"{self._kind} answered no score: {answer!r}")
        if missing := self._verifier.breakdown_keys - answer.breakdown.keys():
            return ScoreFailure(reason=f"{self._kind} answered without {sorted(missing)}: {answer!r}")
        numbers = [answer.value, *(part for part in answer.breakdown.values() if not isinstance(part, str))]
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
            return ScoreFailure(reason=f"{self._kind} answered something that is not a finite number: {answer!r}")
        return answer
