"""Items for supervised fine-tuning on the shapes world, imperfect on purpose.

A start that knew everything would leave reinforcement learning nothing to do. Some thoughts plan wrongly for their prompt, and
their picture follows the wrong plan, so that following plans stays learnable: what the text policy has to learn is planning.
Some objects are painted in another colour or shape than planned: what the painter has to learn is following. Some items have
no thought, which keeps painting straight from the prompt alive.
"""

import numpy as np
import torch

from unigrpo.seeds import derive_seed
from unigrpo.sft_item import SftItem
from unigrpo.shapes.plan import corrupt_plan, draw_plan, recolored, reshaped, write_trace
from unigrpo.shapes.prompts import shapes_prompts
from unigrpo.shapes.render import render
from unigrpo.shapes.world import Scene


def sft_items(
    seed: int, step: int, *, count: int, wrong_plans: float, wrong_objects: float, without_thought: float
) -> list[SftItem]:
    """The items of one step, a function of (seed, step) alone, over training prompts. The shares are ShapesData's."""
    rng = np.random.default_rng(derive_seed(seed, "sft items", step))
    prompts = shapes_prompts("train")
    items = []
    for index in rng.integers(len(prompts), size=count):
        metadata = prompts[index].metadata
        scene = draw_plan(metadata, rng)
        thinks = rng.random() >= without_thought
        if thinks and rng.random() < wrong_plans:
            scene = corrupt_plan(metadata, scene, rng)
        image_HW3 = torch.from_numpy(render(_painted(scene, wrong_objects, rng), rng))
        thought = write_trace(scene) if thinks else None
        items.append(SftItem(prompt=prompts[index].text, thought=thought, image_HW3=image_HW3))
    return items


def _painted(scene: Scene, wrong_objects: float, rng: np.random.Generator) -> Scene:
    """The scene with a share of its objects in another colour or shape."""
    faults = [recolored, reshaped]
    return Scene(tuple(faults[rng.integers(2)](item, rng) if rng.random() < wrong_objects else item for item in scene.items))
