"""Which velocities guided denoising asks for, and that it uses them as the maths says."""

import pytest
import torch
from torch import Tensor

from configs.guidance import Guidance
from rollout_workers.guidance import Velocity, guided


class FakeVelocity:
    """Always the same answer; counts how often it was asked."""

    def __init__(self, value: list[float]) -> None:
        self.value, self.times = torch.tensor([[value]]), list[float]()

    def __call__(self, x_SLC: Tensor, t: float) -> Tensor:
        self.times.append(t)
        return self.value


Branches = tuple[FakeVelocity, FakeVelocity, FakeVelocity]
"""Of the whole context, without its text, without its pictures."""


@pytest.fixture
def branches() -> Branches:
    return FakeVelocity([3.0, 0.0]), FakeVelocity([1.0, 0.0]), FakeVelocity([0.0, 1.0])


def run(velocity: Velocity, *times: float) -> Tensor:
    [*_, last] = [velocity(torch.zeros(1, 1, 2), t) for t in times]
    return last


def test_outside_the_interval_only_the_whole_context_is_asked(branches: Branches) -> None:
    whole, textless, pictureless = branches
    velocity = guided(whole, textless, pictureless, Guidance(image_scale=2.0, interval=(0.4, 0.9)))
    assert torch.equal(run(velocity, 1.0, 0.9, 0.5, 0.4, 0.1), whole.value)
    assert whole.times == [1.0, 0.9, 0.5, 0.4, 0.1]
    assert textless.times == pictureless.times == [0.9, 0.5]


def test_inside_it_they_are_combined_as_configured(branches: Branches) -> None:
    # Text step: 1 + 2 (3 - 1) = 5. Image step: [0, 1] + 3 ([5, 0] - [0, 1]) = [15, -2]. No shrinking.
    guidance = Guidance(text_scale=2.0, image_scale=3.0, renorm_min=1.0)
    assert run(guided(*branches, guidance), 0.7).flatten().tolist() == [15.0, -2.0]
    # Each token back to length 3 after the text step, then [0, 1] + 3 ([3, 0] - [0, 1]) = [9, -2].
    guidance = Guidance(text_scale=2.0, image_scale=3.0, renorm="text_channel")
    assert run(guided(*branches, guidance), 0.7).flatten().tolist() == pytest.approx([9.0, -2.0])


def test_without_image_guidance_two_velocities_do(branches: Branches) -> None:
    guidance = Guidance(text_scale=2.0, renorm_min=1.0)
    assert run(guided(branches[0], branches[1], None, guidance), 0.7).flatten().tolist() == [5.0, 0.0]
