"""The autoencoder's trainer: reproducible, scaled by total variance, and (slow) good enough for the detector."""

import numpy as np
import pytest
import torch

from configs.schema import AutoencoderConfig
from unigrpo.models.bagel.autoencoder import AutoEncoder, to_uint8
from unigrpo.shapes.autoencoder_training import Progress, random_scene, scene_pictures, train_autoencoder
from unigrpo.shapes.detect import detect, followed
from unigrpo.shapes.render import render

SHORT = AutoencoderConfig(steps=3, batch_size=2)


def _train(config: AutoencoderConfig, seed: int) -> tuple[AutoEncoder, list[Progress]]:
    progress: list[Progress] = []
    return train_autoencoder(config, seed=seed, report=progress.append), progress


def test_pictures_are_a_function_of_seed_and_step() -> None:
    pictures = scene_pictures(0, 5, 4)
    assert pictures.shape == (4, 3, 24, 24)
    assert pictures.abs().max() <= 1
    assert torch.equal(pictures, scene_pictures(0, 5, 4))
    assert not torch.equal(pictures, scene_pictures(0, 6, 4))


def test_training_is_a_function_of_the_seed_and_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    (one, progress), (again, _), (other, _) = (_train(SHORT, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert one.config == again.config != other.config
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))
    assert [each.step for each in progress] == [1, 2, 3]


def test_scale_and_shift_give_latents_zero_mean_and_unit_total_variance() -> None:
    autoencoder, _ = _train(SHORT, 0)
    pictures = scene_pictures(9, 0, 256)
    with torch.no_grad():
        noise = torch.randn(256, 4, 6, 6, generator=torch.Generator().manual_seed(0))
        latents = autoencoder.encode(pictures, noise)
    assert latents.mean().item() == pytest.approx(0, abs=0.05)
    assert latents.std().item() == pytest.approx(1, abs=0.05)


@pytest.mark.slow
def test_the_default_training_reconstructs_what_the_detector_reads() -> None:
    autoencoder, _ = _train(AutoencoderConfig(), 0)
    rng = np.random.default_rng(77)
    scenes = [random_scene(rng) for _ in range(200)]
    images = torch.from_numpy(np.stack([render(scene, rng) for scene in scenes])).permute(0, 3, 1, 2).float() / 127.5 - 1
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        latents = autoencoder.encode(images, torch.randn(200, 4, 6, 6, generator=generator))
        for noise, least in ((0.0, 0.99), (0.2, 0.97), (0.4, 0.88)):
            noisy = latents + noise * torch.randn(latents.shape, generator=generator)
            read = [detect(picture) for picture in to_uint8(autoencoder.decode(noisy))]
            shares = [followed(scene, seen) for scene, seen in zip(scenes, read, strict=True) if scene.items]
            assert np.mean(shares) >= least
