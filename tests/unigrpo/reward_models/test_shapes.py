"""The reader of the shapes world: its probability against a sum over all scenes, its gradients, and the bundled weights."""

import json
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.unigrpo.reward_models.fakes import slopes
from unigrpo.reward_models.load import load_reward_model, reward_model_folder
from unigrpo.reward_models.shapes import ShapesReaderConfig, ShapesRewardModel, load_shapes_reward
from unigrpo.reward_models.shapes_pictures import rendered
from unigrpo.shapes.plan import corrupt_plan, draw_plan, plan_is_correct
from unigrpo.shapes.prompts import shapes_prompts
from unigrpo.shapes.world import CELLS, COLORS, SHAPES, Item, Scene

PROMPTS = shapes_prompts("held_out")[::3]
TEXTS = ("two red circles", "a circle above a blue cross", "three squares and a white triangle")


@pytest.fixture(scope="module")
def bundled() -> ShapesRewardModel:
    return load_shapes_reward(reward_model_folder("shapes", None))


def untrained(exponent: float = 0.2) -> ShapesRewardModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ShapesRewardModel(ShapesReaderConfig(exponent=exponent))
    return model.requires_grad_(False).double().eval()


def noise(count: int) -> Tensor:
    return torch.rand((count, 3, 24, 24), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("kind", ["colors", "position"])
def test_the_probability_is_the_sum_over_every_correct_scene(kind: str) -> None:
    prompt = next(each for each in shapes_prompts("held_out") if each.metadata["tag"] == kind)
    model, image = untrained(), noise(1)
    read = model.read(image)
    chance_of = [
        {
            (color, shape): float((read.kind_SK3[0, k, 1] + read.color_SK6[0, k, c] + read.shape_SK4[0, k, s]).exp())
            for (c, color), (s, shape) in product(enumerate(COLORS), enumerate(SHAPES))
        }
        for k in range(len(CELLS))
    ]
    empty = read.kind_SK3[0, :, 0].exp().tolist()
    total = 0.0
    for cells in combinations(range(len(CELLS)), len(prompt.metadata["include"])):
        others = [empty[k] for k in range(len(CELLS)) if k not in cells]
        for kinds in product(chance_of[0], repeat=len(cells)):
            items = tuple(Item(*kind, CELLS[k]) for kind, k in zip(kinds, cells, strict=True))
            if plan_is_correct(prompt.metadata, Scene(items)):
                total += float(np.prod([chance_of[k][kind] for kind, k in zip(kinds, cells, strict=True)] + others))
    assert model.log_probability([prompt.text], image).exp().item() == pytest.approx(total, rel=1e-9)
    assert model.score([prompt.text], image).item() == pytest.approx(total**0.2, rel=1e-9)


def test_the_gradient_to_the_pixels_is_that_of_finite_differences() -> None:
    model = untrained()
    own, measured = slopes(lambda images: model.score(TEXTS, images).sum(), noise(3), count=4)
    assert_close(own, measured, rtol=1e-6, atol=1e-12)
    assert own.abs().min() > 1e-8


def test_the_bundled_gradient_is_that_of_finite_differences_and_reaches_the_pixels_alone(bundled: ShapesRewardModel) -> None:
    model = load_shapes_reward(reward_model_folder("shapes", None)).double()
    scenes = [draw_plan(prompt.metadata, np.random.default_rng(0)) for prompt in PROMPTS[:3]]
    images = rendered(scenes, np.random.default_rng(0)).double()
    own, measured = slopes(lambda given: model.score(TEXTS, given).sum(), images, count=4, step=1e-6)
    assert_close(own, measured, rtol=1e-5, atol=1e-10)
    pixels = images.float().requires_grad_()
    bundled.score(TEXTS, pixels).sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.isfinite().all()
    assert (pixels.grad.flatten(1).norm(dim=1) > 0).all()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in bundled.parameters())


def test_a_pair_scores_the_same_alone_and_in_a_batch(bundled: ShapesRewardModel) -> None:
    images = noise(3).float()
    alone = torch.cat([bundled.score([text], images[i : i + 1]) for i, text in enumerate(TEXTS)])
    assert_close(bundled.score(TEXTS, images), alone, rtol=1e-4, atol=1e-9)


def test_the_bundled_model_tells_right_plans_from_wrong_ones(bundled: ShapesRewardModel) -> None:
    rng = np.random.default_rng(1)
    right = [draw_plan(prompt.metadata, rng) for prompt in PROMPTS]
    wrong = [corrupt_plan(prompt.metadata, scene, rng) for prompt, scene in zip(PROMPTS, right, strict=True)]
    texts = [prompt.text for prompt in PROMPTS]
    scores = bundled.score(texts * 2, rendered([*right, *wrong], rng))
    of_right, of_wrong = scores.chunk(2)
    accuracy = torch.cat((of_right > 0.5, of_wrong < 0.5)).float().mean()
    assert accuracy >= 0.97
    assert (of_right > of_wrong).float().mean() >= 0.99


def test_climbing_its_gradient_makes_a_wrong_picture_better(bundled: ShapesRewardModel) -> None:
    rng = np.random.default_rng(2)
    prompts = PROMPTS[-20:]
    wrong = [corrupt_plan(prompt.metadata, draw_plan(prompt.metadata, rng), rng) for prompt in prompts]
    texts, images = [prompt.text for prompt in prompts], rendered(wrong, rng)
    before = bundled.score(texts, images)
    for _ in range(10):
        images.requires_grad_()
        (gradient,) = torch.autograd.grad(bundled.log_probability(texts, images).sum(), images)
        step = 0.5 * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
        images = (images + step).detach().clamp(0, 1)
    after = bundled.score(texts, images)
    assert (after > before).all()
    assert (after - before).mean() > 0.1


def test_a_saved_model_is_the_same_one(tmp_path: Path, bundled: ShapesRewardModel) -> None:
    bundled.save(tmp_path)
    again = load_reward_model("shapes", tmp_path)
    assert torch.equal(again.score(TEXTS, noise(3).float()), bundled.score(TEXTS, noise(3).float()))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "lacks config.json"),
        ("model.safetensors", None, "lacks model.safetensors"),
        ("config.json", {"channels": 8, "hidden": 96, "exponent": 0.2}, "size mismatch"),
        ("config.json", {"depth": 8}, "holds no reward model of the shapes world .*depth"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused(
    tmp_path: Path, bundled: ShapesRewardModel, name: str, content: dict[str, float] | None, message: str
) -> None:
    bundled.save(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        load_shapes_reward(tmp_path)


def test_pictures_of_another_size_or_number_are_refused(bundled: ShapesRewardModel) -> None:
    with pytest.raises(ValueError, match=r"a picture of 32 x 24 pixels; .* reads 24 x 24"):
        bundled.score(["a circle"], torch.rand(1, 3, 32, 24))
    with pytest.raises(ValueError, match="got 2 prompts and pictures"):
        bundled.score(["a circle", "a square"], torch.rand(1, 3, 24, 24))
