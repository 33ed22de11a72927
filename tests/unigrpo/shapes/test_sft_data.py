"""Fine-tuning items: what thought and picture say about their prompt, and how often they are wrong on purpose."""

import pytest
import torch

from unigrpo.sft_item import SftItem
from unigrpo.shapes.detect import detect, followed
from unigrpo.shapes.plan import plan_is_correct, read_trace
from unigrpo.shapes.prompts import shapes_prompts
from unigrpo.shapes.sft_data import sft_items
from unigrpo.shapes.world import Scene

METADATA = {prompt.text: prompt.metadata for prompt in shapes_prompts("train")}


def _planned(item: SftItem) -> Scene:
    assert item.thought is not None
    scene = read_trace(item.thought)
    assert scene is not None
    return scene


def _items(count: int = 600, **shares: float) -> list[SftItem]:
    defaults = {"wrong_plans": 0.0, "wrong_objects": 0.0, "without_thought": 0.0}
    return sft_items(0, 0, count=count, **(defaults | shares))


def test_clean_items_plan_right_and_paint_what_they_plan() -> None:
    for item in _items(100):
        scene, seen = _planned(item), detect(item.image_HW3)
        assert plan_is_correct(METADATA[item.prompt], scene)
        assert len(seen.objects) == len(scene.items)
        assert (followed(scene, seen), seen.unrecognised) == (1, 0)


def test_wrong_plans_are_their_share_and_are_painted_as_planned() -> None:
    items = _items(wrong_plans=0.3)
    wrong = [item for item in items if not plan_is_correct(METADATA[item.prompt], _planned(item))]
    assert len(wrong) / len(items) == pytest.approx(0.3, abs=0.06)
    assert all(followed(_planned(item), detect(item.image_HW3)) == 1 for item in wrong)


def test_wrong_objects_are_their_share_and_whole_objects_in_their_cell() -> None:
    objects = correct = 0.0
    for item in _items(wrong_objects=0.2):
        scene, seen = _planned(item), detect(item.image_HW3)
        assert len(seen.objects) == len(scene.items)
        assert seen.unrecognised == 0
        objects += len(scene.items)
        correct += followed(scene, seen) * len(scene.items)
    assert correct / objects == pytest.approx(0.8, abs=0.04)


def test_items_without_thought_are_their_share_and_show_what_the_prompt_asks() -> None:
    items = _items(without_thought=0.4, wrong_plans=1.0)
    silent = [item for item in items if item.thought is None]
    assert len(silent) / len(items) == pytest.approx(0.4, abs=0.06)
    for item in silent:
        wanted = sum(clause["count"] for clause in METADATA[item.prompt]["include"])
        assert len(detect(item.image_HW3).objects) == wanted


def test_items_are_a_function_of_seed_and_step() -> None:
    def draw(seed: int, step: int) -> list[SftItem]:
        return sft_items(seed, step, count=8, wrong_plans=0.2, wrong_objects=0.1, without_thought=0.2)

    for one, again in zip(draw(3, 7), draw(3, 7), strict=True):
        assert (one.prompt, one.thought) == (again.prompt, again.thought)
        assert torch.equal(one.image_HW3, again.image_HW3)
    for other in (draw(3, 8), draw(4, 7)):
        assert [item.prompt for item in other] != [item.prompt for item in draw(3, 7)]
