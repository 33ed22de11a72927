"""The reward of the shapes world, from rendered pixels: right plans are perfect, wrong ones are not, and nothing is free."""

from collections.abc import Callable
from statistics import fmean

import numpy as np
import pytest
import torch

from configs.verifiers import GenevalReward
from reward_server.server import RewardServer
from reward_server.verifiers import validate_metadata
from unigrpo.shapes.plan import corrupt_plan, draw_plan
from unigrpo.shapes.prompts import shapes_prompts
from unigrpo.shapes.render import render
from unigrpo.shapes.world import CELLS, Item, Scene
from unigrpo.types import Prompt, Score

PROMPTS = (shapes_prompts("train") + shapes_prompts("held_out"))[::5]
Edit = Callable[[Prompt, Scene, np.random.Generator], Scene]


def judged(edit: Edit) -> list[Score]:
    """Scores of pictures of correct plans after an edit."""
    rng = np.random.default_rng(0)
    scenes = [edit(prompt, draw_plan(prompt.metadata, rng), rng) for prompt in PROMPTS]
    images = [torch.from_numpy(render(scene, rng)) for scene in scenes]
    scores = RewardServer(GenevalReward(detector="shapes")).score(PROMPTS, images)
    assert all(isinstance(score, Score) for score in scores)
    return [score for score in scores if isinstance(score, Score)]


def without_last(prompt: Prompt, scene: Scene, rng: np.random.Generator) -> Scene:
    return Scene(scene.items[:-1])


def with_twin(prompt: Prompt, scene: Scene, rng: np.random.Generator) -> Scene:
    last = scene.items[-1]
    free = next(cell for cell in CELLS if cell not in {item.cell for item in scene.items})
    return Scene((*scene.items, Item(last.color, last.shape, free)))


def test_every_prompt_of_the_world_can_be_judged() -> None:
    for prompt in shapes_prompts("train") + shapes_prompts("held_out"):
        validate_metadata(GenevalReward(detector="shapes"), prompt.metadata)


def test_pictures_of_right_plans_are_perfect() -> None:
    scores = judged(lambda prompt, scene, rng: scene)
    perfect: dict[str, float | str] = {"strict": 1.0, "graded": 1.0, "geneval": 1.0, "reason": "", "unmet": ""}
    assert all(score == Score(value=1.0, breakdown=perfect) for score in scores)


@pytest.mark.parametrize(
    "edit", [lambda prompt, scene, rng: corrupt_plan(prompt.metadata, scene, rng), without_last, with_twin]
)
def test_pictures_of_wrong_plans_are_not(edit: Edit) -> None:
    scores = judged(edit)
    assert all(score.breakdown["strict"] == 0.0 and score.value < 1.0 for score in scores)
    assert all(score.breakdown["unmet"] for score in scores)


def test_an_object_too_many_pays_no_better_than_one_too_few() -> None:
    means = [fmean(score.value for score in judged(edit)) for edit in (without_last, with_twin)]
    assert means[0] == pytest.approx(means[1], abs=0.1)


def test_a_blank_picture_is_worth_nothing() -> None:
    assert {score.value for score in judged(lambda prompt, scene, rng: Scene(()))} == {0.0}
