"""Pictures that somebody else painted, judged as those of a policy are: by reward actors, or by one server in this process."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, Self

from torch import Tensor

from cluster.faults import Unscored
from configs.reward import Reward
from reward_server.verifiers import validate_metadata
from unigrpo.geneval_folder import PaintedPrompt, read_geneval_folder, read_picture
from unigrpo.types import Prompt, Score, ScoreFailure


class Server(Protocol):
    """Of a RewardServer, what is used here."""

    def score(self, prompts: Sequence[Prompt], images: Sequence[Tensor]) -> list[Score | ScoreFailure]:
        """One verdict a picture, in order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedPrompt:
    """One prompt of a folder."""

    prompt: Prompt
    files: tuple[Path, ...]
    scores: tuple[Score, ...]
    """One a file."""

    @classmethod
    def of(cls, painted: PaintedPrompt, scores: Sequence[Score]) -> Self:
        """A painted prompt with its scores."""
        return cls(prompt=painted.prompt, files=painted.files, scores=tuple(scores))


def read_folder(folder: Path, reward: Reward) -> list[PaintedPrompt]:
    """The prompts of a folder, every one of which `reward` can judge. Raises ValueError, naming every fault of the folder."""
    return read_geneval_folder(folder, partial(validate_metadata, reward))


def judge_folder(folder: Path, reward: Reward, server: Server) -> list[JudgedPrompt]:
    """Judge a folder of pictures in GenEval's layout in this process.

    Raises ValueError for what is wrong with the folder, and Unscored, with the first reason, where any score failed.
    """
    judged = []
    for painted in read_folder(folder, reward):
        verdicts = server.score([painted.prompt] * len(painted.files), [read_picture(file) for file in painted.files])
        scores = [verdict for verdict in verdicts if isinstance(verdict, Score)]
        if len(scores) < len(verdicts):
            [reason, *_] = [verdict.reason for verdict in verdicts if isinstance(verdict, ScoreFailure)]
            raise Unscored(f"pictures of {painted.files[0].parent} could not be judged: {reason}; evaluate again")
        judged.append(JudgedPrompt.of(painted, scores))
    return judged
