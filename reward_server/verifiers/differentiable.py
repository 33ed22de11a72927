"""A reward model whose score carries gradients to the pixels (unigrpo/reward_models), asked here only for the score."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from configs.verifiers import DifferentiableReward
from reward_server.fingerprint import fingerprint
from reward_server.verifiers.base import LocalVerifier
from unigrpo.reward_models.load import load_reward_model, reward_model_folder
from unigrpo.reward_models.shapes_scenes import placements, read_prompt
from unigrpo.types import Prompt, Score, ScoreFailure

REVISION = 2
"""Counted up when the same weights score another way."""


class DifferentiableVerifier(LocalVerifier):
    """Judges pictures of one size in one batch, on the GPU where there is one."""

    breakdown_keys = frozenset({"differentiable"})

    def __init__(self, config: DifferentiableReward) -> None:
        """Load the model. Raises ValueError, naming what is missing, when its folder holds none."""
        settings = {"model": config.model, "revision": REVISION}
        self.version = fingerprint(reward_model_folder(config.model, config.path), settings=settings)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = load_reward_model(config.model, config.path).to(self._device)

    @staticmethod
    def validate_metadata(config: DifferentiableReward, metadata: Mapping[str, Any]) -> None:
        """Raise ValueError for a prompt that is missing, or not in words that the shapes world's reward model understands."""
        prompt = metadata.get("prompt")
        if not isinstance(prompt, str) or not prompt.strip():
            raise ValueError(f"prompt is {prompt!r}; a reward model judges pictures by the prompt's text, so give one")
        if config.model == "shapes":
            placements(read_prompt(prompt))

    @torch.no_grad()
    def score(self, prompts: Sequence[Prompt], images: Sequence[Tensor]) -> list[Score | ScoreFailure]:
        verdicts: dict[int, Score | ScoreFailure] = {}
        sizes: dict[torch.Size, list[int]] = {}
        for index, (prompt, image) in enumerate(zip(prompts, images, strict=True)):
            try:
                self._model.require_prompt(prompt.text)
                self._model.require_size(*image.shape[:2])
            except ValueError as error:
                verdicts[index] = ScoreFailure(reason=str(error))
            else:
                sizes.setdefault(image.shape, []).append(index)
        for chosen in sizes.values():
            images_S3HW = torch.stack([images[index] for index in chosen]).to(self._device).permute(0, 3, 1, 2).float() / 255
            values = self._model.score([prompts[index].text for index in chosen], images_S3HW).tolist()
            for index, value in zip(chosen, values, strict=True):
                verdicts[index] = Score(value=value, breakdown={"differentiable": value})
        return [verdicts[index] for index in range(len(verdicts))]
