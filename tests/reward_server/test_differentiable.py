"""The differentiable reward as a verifier: its scores are the model's, and what it cannot judge fails alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from configs.verifiers import DifferentiableReward
from reward_server.server import RewardServer
from reward_server.verifiers import validate_metadata
from reward_server.verifiers.differentiable import DifferentiableVerifier
from tests.unigrpo.reward_models.fakes import save_tiny_internvl
from unigrpo.reward_models.load import load_reward_model
from unigrpo.reward_models.shapes import ShapesReaderConfig, ShapesRewardModel
from unigrpo.reward_models.shapes_pictures import rendered, to_uint8_HW3
from unigrpo.shapes.world import Item, Scene
from unigrpo.types import Prompt, Score, ScoreFailure

RED_CIRCLE = rendered([Scene((Item("red", "circle", "B2"),))], np.random.default_rng(0))
PICTURE = torch.from_numpy(to_uint8_HW3(RED_CIRCLE[0]))


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt(index=index, text=text, metadata={"prompt": text}) for index, text in enumerate(texts)]


def values(verdicts: Sequence[Any]) -> list[float]:
    assert all(isinstance(verdict, Score) for verdict in verdicts)
    return [verdict.value for verdict in verdicts]


def test_scores_are_those_of_the_bundled_model() -> None:
    texts = ("a red circle", "a blue circle", "two red circles")
    verdicts = RewardServer(DifferentiableReward()).score(prompts(*texts), [PICTURE] * 3)
    expected = load_reward_model("shapes").score(texts, RED_CIRCLE.repeat(3, 1, 1, 1)).tolist()
    assert values(verdicts) == pytest.approx(expected, rel=1e-5)
    assert expected[0] > 0.8 > 0.5 > max(expected[1:])
    assert [verdict.breakdown for verdict in verdicts if isinstance(verdict, Score)] == [
        {"differentiable": value} for value in values(verdicts)
    ]


def test_what_cannot_be_judged_fails_alone() -> None:
    wide: Tensor = torch.zeros(24, 32, 3, dtype=torch.uint8)
    asked = prompts("a red circle", "a red elephant", "a red circle", "a red circle")
    first, unknown, oblong, last = DifferentiableVerifier(DifferentiableReward()).score(
        asked, [PICTURE, PICTURE, wide, PICTURE]
    )
    assert isinstance(first, Score)
    assert first == last
    assert isinstance(unknown, ScoreFailure)
    assert "'a red elephant' is not understood" in unknown.reason
    assert isinstance(oblong, ScoreFailure)
    assert "24 x 32 pixels" in oblong.reason


def test_a_vlm_judges_pictures_of_several_sizes_at_once(tmp_path: Path) -> None:
    save_tiny_internvl(tmp_path)
    verifier = DifferentiableVerifier(DifferentiableReward(model="internvl", path=tmp_path))
    small, large = torch.full((16, 16, 3), 200, dtype=torch.uint8), torch.full((40, 24, 3), 90, dtype=torch.uint8)
    asked = prompts("a cat", "a dog", "a long sentence about a cow", " ")
    *verdicts, empty = verifier.score(asked, [small, large, small, small])
    model = load_reward_model("internvl", tmp_path)
    for prompt, image, value in zip(asked, (small, large, small), values(verdicts), strict=False):
        alone = model.score([prompt.text], image[None].permute(0, 3, 1, 2).float() / 255).item()
        assert value == pytest.approx(alone, rel=1e-4)
    assert isinstance(empty, ScoreFailure)


def test_the_version_is_of_the_weights(tmp_path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ShapesRewardModel(ShapesReaderConfig()).save(tmp_path)
    config = DifferentiableReward(path=tmp_path)
    version = DifferentiableVerifier(config).version
    assert version == DifferentiableVerifier(config).version != DifferentiableVerifier(DifferentiableReward()).version
    ShapesRewardModel(ShapesReaderConfig(exponent=0.5)).save(tmp_path)
    assert DifferentiableVerifier(config).version != version


def test_prompts_that_it_could_not_judge_are_refused_before_a_run(tmp_path: Path) -> None:
    shapes, internvl = DifferentiableReward(), DifferentiableReward(model="internvl", path=tmp_path)
    validate_metadata(shapes, {"prompt": "a red circle"})
    validate_metadata(internvl, {"prompt": "a red elephant"})
    with pytest.raises(ValueError, match="'a red elephant' is not understood"):
        validate_metadata(shapes, {"prompt": "a red elephant"})
    with pytest.raises(ValueError, match="prompt is None"):
        validate_metadata(internvl, {"tag": "colors"})


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere is neither a file nor a folder"):
        DifferentiableVerifier(DifferentiableReward(path=tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="no reward model of kind internvl is bundled"):
        DifferentiableVerifier(DifferentiableReward(model="internvl"))
