"""Planted hacks, each of which raises its own alarm and no other."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from cluster.alarms import MEASURES, Bounds, advice, alarms, bounds
from cluster.panel import measures
from configs.load import load
from configs.panel import Thresholds
from configs.schema import TrainConfig
from configs.verifiers import GenevalReward
from reward_server.verifiers.geneval import GenevalVerifier
from tests.cluster.fakes import fake_group
from unigrpo.shapes.plan import draw_plan, write_trace
from unigrpo.shapes.prompts import shapes_prompts
from unigrpo.shapes.render import render
from unigrpo.shapes.tokenizer import encode
from unigrpo.shapes.world import CELLS, SHAPES, Item, Scene
from unigrpo.types import Painting, Score, Thought

THRESHOLDS = Thresholds().model_dump()
UNIGRPO = cast(TrainConfig, load(Path("configs/shapes/unigrpo.yaml")))
SIBLINGS = 4
PROMPTS = [prompt for prompt in shapes_prompts("train") if prompt.metadata["tag"] in ("counting", "color_attr")][::20]
LENIENT, STRICT = (GenevalVerifier(GenevalReward(detector="shapes", score=score)) for score in ("geneval", "strict"))


class FakePolicy:
    """Plans and draws without a fault, but for the fault that a test plants; what it makes is judged as pictures are."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.scenes_PG = [[draw_plan(prompt.metadata, self._rng) for _ in range(SIBLINGS)] for prompt in PROMPTS]
        self.velocity_rms = 1.3
        self.draw: Callable[[Tensor], Tensor] = lambda image_HW3: image_HW3
        self.think: Callable[[Sequence[int]], Sequence[int]] = lambda token_ids: token_ids
        self.collapsed = False

    def measured(self) -> dict[str, float]:
        paintings_PG = [self._painted(scenes) for scenes in self.scenes_PG]
        training_PG, held_out_PG = (
            [_scores(judge, paintings_PG, g) for g in range(len(PROMPTS))] for judge in (LENIENT, STRICT)
        )
        groups = [
            replace(fake_group(0, "", [0.0]), prompt=prompt, scores=tuple(scores), thoughts=tuple(map(self._thought, scenes)))
            for prompt, scores, scenes in zip(PROMPTS, training_PG, self.scenes_PG, strict=True)
        ]
        return measures(groups, paintings_PG, held_out_PG)

    def _painted(self, scenes: Sequence[Scene]) -> list[Painting]:
        images = [self.draw(torch.from_numpy(render(scene, self._rng))) for scene in scenes]
        return [self._painting(images[0] if self.collapsed else image) for image in images]

    def _painting(self, image_HW3: Tensor) -> Painting:
        return Painting(image_HW3=image_HW3, latent_LC=torch.empty(9, 16), velocity_rms=self.velocity_rms, policy_version=0)

    def _thought(self, scene: Scene) -> Thought:
        token_ids = tuple(self.think(encode(write_trace(scene))))
        return Thought(token_ids=token_ids, behavior_logp=(0.0,) * len(token_ids), truncated=False, policy_version=0)


def _scores(judge: GenevalVerifier, paintings_PG: Sequence[Sequence[Painting]], place: int) -> list[Score]:
    images = [painting.image_HW3 for painting in paintings_PG[place]]
    scores = judge.score([PROMPTS[place]] * len(images), images)
    assert all(isinstance(score, Score) for score in scores)
    return cast(list[Score], scores)


def saturate(policy: FakePolicy) -> None:
    """Every object is as bright as can be."""
    policy.draw = lambda image_HW3: torch.where(image_HW3.amax(-1, keepdim=True) > 200, 255, image_HW3).to(torch.uint8)


def draw_boards(policy: FakePolicy) -> None:
    """A faint checkerboard of patches lies over every picture."""
    y, x = torch.meshgrid(torch.arange(24) // 8, torch.arange(24) // 8, indexing="ij")
    policy.draw = lambda image_HW3: (image_HW3 + ((x + y) % 2 * 10 - 5)[:, :, None]).clamp(1, 254).to(torch.uint8)


def collapse(policy: FakePolicy) -> None:
    policy.collapsed = True


def inflate(policy: FakePolicy) -> None:
    policy.velocity_rms *= 1.3


def think_endlessly(policy: FakePolicy) -> None:
    policy.think = lambda token_ids: range(3 * len(token_ids))


def think_in_circles(policy: FakePolicy) -> None:
    """As long as ever, and the same two words over and over."""
    policy.think = lambda token_ids: [5, 6] * (len(token_ids) // 2)


def add_objects(policy: FakePolicy) -> None:
    """One more object than asked for, of a shape that is not: GenEval's rule lets it pass."""
    for prompt, scenes in zip(PROMPTS, policy.scenes_PG, strict=True):
        asked = {clause["class"] for clause in prompt.metadata["include"]}
        shape = next(each for each in SHAPES if each not in asked)
        for place, scene in enumerate(scenes):
            free = next(cell for cell in CELLS if cell not in {item.cell for item in scene.items})
            scenes[place] = Scene((*scene.items, Item("green", shape, free)))


HACKS = {
    "gap": add_objects,
    "saturation": saturate,
    "grid_artefact": draw_boards,
    "diversity": collapse,
    "velocity_rms": inflate,
    "thought_tokens": think_endlessly,
    "repetition": think_in_circles,
}


@pytest.fixture(scope="module")
def start() -> dict[str, float]:
    return FakePolicy(0).measured()


def raised(now: dict[str, float], start: dict[str, float]) -> set[str]:
    fired, lines = alarms(now, start, UNIGRPO, THRESHOLDS)
    assert len(lines) == sum(fired.values())
    return {name.removeprefix("alarm/") for name, is_alarm in fired.items() if is_alarm}


def test_every_measure_has_a_threshold_and_a_planted_hack() -> None:
    assert set(MEASURES) == set(THRESHOLDS) == set(HACKS)


@pytest.mark.parametrize("measure", HACKS)
def test_a_planted_hack_raises_its_own_alarm_and_no_other(measure: str, start: dict[str, float]) -> None:
    policy = FakePolicy(1)
    HACKS[measure](policy)
    assert raised(policy.measured(), start) == {measure}


def test_a_clean_panel_raises_none(start: dict[str, float]) -> None:
    assert raised(FakePolicy(1).measured(), start) == set()


def test_an_endless_thought_of_repeated_words_raises_both_alarms_of_thoughts(start: dict[str, float]) -> None:
    policy = FakePolicy(1)
    policy.think = lambda token_ids: [5, 6] * len(token_ids)
    assert raised(policy.measured(), start) == {"thought_tokens", "repetition"}


@pytest.mark.parametrize(
    ("moves", "threshold", "expected"),
    [
        ("rise", 0.1, Bounds(low=-np.inf, high=2.1)),
        ("growth", 1.5, Bounds(low=-np.inf, high=3.0)),
        ("fall", 0.5, Bounds(low=1.0, high=np.inf)),
        ("shift", 1.25, Bounds(low=1.6, high=2.5)),
    ],
)
def test_bounds_follow_from_the_start(moves: Any, threshold: float, expected: Bounds) -> None:
    assert bounds(moves, start=2.0, threshold=threshold) == expected
    assert expected.hold(2.0)


def test_a_measure_without_a_threshold_is_no_alarm_and_one_that_was_not_taken_neither() -> None:
    thresholds = THRESHOLDS | {"saturation": None}
    now, start = {"saturation": 1.0, "diversity": 0.1}, {"saturation": 0.0, "diversity": 0.4, "gap": 0.0}
    fired, lines = alarms(now, start, UNIGRPO, thresholds)
    assert fired == {"alarm/diversity": True}
    assert lines == [
        "diversity 0.1 (distance between pictures of a prompt), from 0.2 allowed, 0.4 at the start: "
        "raise algorithm.regulariser.weight, lower learner.generation_learning_rate, raise algorithm.text_kl, "
        "lower learner.text_learning_rate, or keep an earlier checkpoint"
    ]


@pytest.mark.parametrize("path", sorted(Path("configs/shapes").glob("*.yaml")), ids=lambda path: path.stem)
def test_advice_names_keys_that_the_run_has_and_what_it_trains(path: Path) -> None:
    config = load(path)
    assert isinstance(config, TrainConfig)
    told = [advice(measure.culprit, config) for measure in MEASURES.values()]
    keys = set(re.findall(r"(?:algorithm|learner)\.[a-z_.]+", " ".join(told)))
    for key in keys:
        assert attrgetter(key)(config) is not None
    assert {f"learner.{group}_learning_rate" for group in config.algorithm.trains} == {key for key in keys if "rate" in key}


def test_without_a_regulariser_one_is_advised() -> None:
    config = load(Path("configs/ablations/regulariser_none.yaml"))
    assert isinstance(config, TrainConfig)
    assert advice("painter", config).startswith("give algorithm.regulariser.kind velocity_mse, lower learner.")
