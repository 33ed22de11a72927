"""The control is a function of the picture, uniform over pictures, and blind to the prompt."""

import torch

from configs.verifiers import RandomReward
from reward_server.verifiers.random import RandomVerifier, uniform
from tests.reward_server.fakes import prompt
from unigrpo.types import Score


def test_the_number_belongs_to_the_picture() -> None:
    image = torch.arange(48, dtype=torch.uint8).reshape(4, 4, 3)
    other = image.clone()
    other[0, 0, 0] = 1
    verifier = RandomVerifier(RandomReward())
    first, again, changed = verifier.score([prompt({"tag": "a"}), prompt({}), prompt({})], [image, image.clone(), other])
    assert isinstance(first, Score)
    assert first == again != changed
    assert first.breakdown == {"random": first.value}
    assert uniform(image.reshape(2, 8, 3)) != uniform(image)
    assert uniform(image.flip(0)) == uniform(image.flip(0).clone())


def test_numbers_are_uniform() -> None:
    draws = torch.tensor([uniform(image) for image in torch.randint(256, (2000, 4, 4, 3), dtype=torch.uint8)])
    assert draws.min() >= 0
    assert draws.max() < 1
    # Kolmogorov-Smirnov distance; 1.95 / sqrt(n) is exceeded with probability .001.
    distance = (draws.sort().values - torch.linspace(0, 1, 2000)).abs().max()
    assert distance < 1.95 / 2000**0.5
