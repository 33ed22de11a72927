"""The exam: a prompt comes with points, a vision-language model answers each with yes or no, the score is the share of yes.

The paper's TA protocol (UniGRPO, arXiv:2603.23500), whose own prompts and points were not released.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from configs.verifiers import ExamReward
from reward_server.chat.choices import YES_NO
from reward_server.chat.panel import Panel
from reward_server.templates import EXAM
from unigrpo.types import Prompt, Score, ScoreFailure

_MAX_POINTS = 20


def exam_points(metadata: Mapping[str, Any]) -> list[str]:
    """The points of a prompt. Example: {"prompt": "two cats", "exam_points": ["There are exactly two cats."]}.

    Raises ValueError unless they are a list of 1 to 20 texts, none empty and none twice.
    """
    points = metadata.get("exam_points")
    if not isinstance(points, list) or not 1 <= len(points) <= _MAX_POINTS:
        raise ValueError(f"exam_points is {points!r:.300}, but must be a list of 1 to {_MAX_POINTS} texts")
    for point in points:
        if not isinstance(point, str) or not point.strip():
            raise ValueError(f"exam_points holds {point!r:.300}, but each must be a text that is not empty")
    if len(set(points)) < len(points):
        raise ValueError(f"exam_points holds a text twice in {points!r:.300}; give each once")
    return points


class ExamVerifier:
    """Asks one question a point. A picture of which any point was not answered has failed."""

    breakdown_keys = frozenset({"exam", "yes", "no"})
    bounds = (0.0, 1.0)

    def __init__(self, config: ExamReward) -> None:
        """Raises ValueError for what Panel refuses."""
        template = config.template or EXAM
        self._panel = Panel(config, template=template, form=YES_NO, data=["prompt", "point"], settings={})
        self.version = self._panel.version

    @property
    def num_retries(self) -> int:
        return self._panel.num_retries

    @staticmethod
    def validate_metadata(config: ExamReward, metadata: Mapping[str, Any]) -> None:
        exam_points(metadata)

    def score(self, prompts: Sequence[Prompt], images: Sequence[Tensor]) -> list[Score | ScoreFailure]:
        papers = self._panel.ask(_questions, prompts, images)
        return [
            paper if isinstance(paper, ScoreFailure) else _marked(exam_points(prompt.metadata), paper)
            for prompt, paper in zip(prompts, papers, strict=True)
        ]

    def close(self) -> None:
        """Ends connections and threads."""
        self._panel.close()


def _questions(prompt: Prompt) -> list[dict[str, str]]:
    return [{"prompt": prompt.text, "point": point} for point in exam_points(prompt.metadata)]


def _marked(points: Sequence[str], answers: Sequence[str]) -> Score:
    """The share of yes. The points themselves go to the gallery, under the answer that each got."""
    by_answer = {
        given: [point for point, answer in zip(points, answers, strict=True) if answer == given] for given in ("yes", "no")
    }
    share = len(by_answer["yes"]) / len(points)
    return Score(value=share, breakdown={"exam": share, **{given: "; ".join(each) for given, each in by_answer.items()}})
