"""A vision-language model's verdict: does the picture fit the prompt?"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from configs.verifiers import VlmJudgeReward
from reward_server.chat.choices import YES_NO, grades
from reward_server.chat.panel import Form, Panel
from reward_server.chat.probability import YesProbability
from reward_server.templates import VLM_JUDGE, VLM_JUDGE_SCALE
from unigrpo.types import Prompt, Score, ScoreFailure


class VlmJudgeVerifier:
    """Asks one question a picture: yes or no (1 or 0), a grade (the worst 0, the best 1), or the probability of yes."""

    breakdown_keys = frozenset({"vlm_judge", "answer"})
    bounds = (0.0, 1.0)

    def __init__(self, config: VlmJudgeReward) -> None:
        """Raises ValueError for what Panel refuses."""
        scaled = config.answer == "scale"
        forms: dict[str, Form[str | int | float]] = {
            "yes_no": YES_NO,
            "scale": grades(config.scale),
            "yes_probability": YesProbability(),
        }
        self._best_grade = config.scale
        self._panel = Panel(
            config,
            template=config.template or (VLM_JUDGE_SCALE if scaled else VLM_JUDGE),
            form=forms[config.answer],
            data=["prompt"],
            settings={"scale": str(config.scale)} if scaled else {},
        )
        self.version = self._panel.version

    @property
    def num_retries(self) -> int:
        return self._panel.num_retries

    @staticmethod
    def validate_metadata(config: VlmJudgeReward, metadata: Mapping[str, Any]) -> None:
        """Every prompt will do."""

    def score(self, prompts: Sequence[Prompt], images: Sequence[Tensor]) -> list[Score | ScoreFailure]:
        answers = self._panel.ask(lambda prompt: [{"prompt": prompt.text}], prompts, images)
        return [answer if isinstance(answer, ScoreFailure) else self._score(answer[0]) for answer in answers]

    def close(self) -> None:
        """Ends connections and threads."""
        self._panel.close()

    def _score(self, answer: str | int | float) -> Score:
        match answer:
            case str():
                value = float(answer == "yes")
            case int():
                value = (answer - 1) / (self._best_grade - 1)
            case float():
                value = answer
        return Score(value=value, breakdown={"vlm_judge": value, "answer": str(answer)})
