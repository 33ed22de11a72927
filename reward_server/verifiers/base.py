"""What every verifier is: something that looks at pictures and answers scores, or says that it could not."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from unigrpo.types import Prompt, Score, ScoreFailure

log = logging.getLogger(__name__)


class Verifier(Protocol):
    """One judge. It sees prompt and picture, never the thought. Its config is its own variant of configs.verifiers.Verifier."""

    @property
    def version(self) -> str:
        """Names everything that decides a score: a remembered verdict counts only for the version that gave it."""

    @property
    def breakdown_keys(self) -> frozenset[str]:
        """Partial scores and reasons that each of its breakdowns carries; the server refuses one that lacks any."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Least and greatest value of a score; the server refuses one outside."""

    @property
    def num_retries(self) -> int:
        """Calls to endpoints that it repeated so far."""

    def __init__(self, config: Any) -> None: ...

    @staticmethod
    def validate_metadata(config: Any, metadata: Mapping[str, Any]) -> None:
        """Raise ValueError, naming what is wrong, for a prompt that this verifier could not judge fairly."""

    def score(self, prompts: Sequence[Prompt], images: Sequence[Tensor]) -> list[Score | ScoreFailure]:
        """One verdict an item, in order; images are [H, W, 3] uint8. What goes wrong with one item fails that item alone."""


class LocalVerifier:
    """What verifiers that call nobody have in common."""

    version = "1"
    num_retries = 0
    bounds = (0.0, 1.0)


def judge_each(
    judge: Callable[[Prompt, Tensor], Score], prompts: Sequence[Prompt], images: Sequence[Tensor]
) -> list[Score | ScoreFailure]:
    """Judge items one by one; an exception becomes the failure of its own item and is logged with its traceback.

    Where each of several items raised, the fault is the judge's, not theirs: the last exception is raised.
    """
    verdicts: list[Score | ScoreFailure] = []
    for prompt, image in zip(prompts, images, strict=True):
        try:
            verdicts.append(judge(prompt, image))
        except Exception as error:
            log.exception("judging prompt %d (%r) failed", prompt.index, prompt.text)
            verdicts.append(ScoreFailure(reason=f"{type(error).__name__}: {error}"))
            if len(verdicts) == len(prompts) > 1 and not any(isinstance(verdict, Score) for verdict in verdicts):
                raise
    return verdicts
