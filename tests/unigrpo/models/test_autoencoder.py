import json
from pathlib import Path

import pytest
import torch

from tests.unigrpo.models.fakes import CONFIG
from unigrpo.models.bagel.autoencoder import AutoEncoder, from_tokens, to_tokens, to_uint8
from unigrpo.models.bagel.config import AutoEncoderConfig


def test_a_token_runs_over_rows_then_columns_then_channels() -> None:
    latent = torch.arange(2 * 4 * 6).reshape(1, 2, 4, 6)
    tokens = to_tokens(latent, 2)
    assert tokens.shape == (1, 6, 8)
    corner = [(0, 0), (0, 1), (1, 0), (1, 1)]
    token = 4  # row 1, column 1 of 2 x 3 tokens: latent pixels from (2, 2)
    assert tokens[0, token].tolist() == [int(latent[0, z, 2 + dy, 2 + dx]) for dy, dx in corner for z in (0, 1)]
    assert torch.equal(from_tokens(tokens, (2, 3), 2), latent)


def test_bytes_are_clamped_and_truncated() -> None:
    pixels = torch.tensor([-3.0, -1.0, 0.0, 0.9999, 1.0, 2.0]).reshape(1, 1, 2, 3).expand(1, 3, 2, 3)
    image = to_uint8(pixels)
    assert image.shape == (1, 2, 3, 3)
    assert image[0, :, :, 1].flatten().tolist() == [0, 0, 127, 254, 255, 255]


def test_three_levels_make_pictures_four_times_their_latents(autoencoder: AutoEncoder) -> None:
    image = torch.randn(2, 3, 16, 24)
    latent = autoencoder.encode(image, None)
    assert CONFIG.vae.downsample == 4
    assert latent.shape == (2, 4, 4, 6)
    assert autoencoder.decode(latent).shape == image.shape


@torch.no_grad()
def test_encode_scales_a_draw_from_the_posterior(autoencoder: AutoEncoder) -> None:
    image, eps = torch.randn(1, 3, 8, 8), torch.randn(1, 4, 2, 2)
    mean, logvar = autoencoder.posterior(image)
    torch.testing.assert_close(autoencoder.encode(image, None), 0.7 * (mean - 0.1))
    torch.testing.assert_close(autoencoder.encode(image, eps), 0.7 * (mean + logvar.exp().sqrt() * eps - 0.1))


@torch.no_grad()
def test_a_batch_of_pictures_equals_one_by_one(autoencoder: AutoEncoder) -> None:
    latents = torch.randn(3, 4, 4, 6)
    together = autoencoder.decode(latents)
    for index in range(3):
        torch.testing.assert_close(autoencoder.decode(latents[index : index + 1]), together[index : index + 1])


def test_released_names_and_shapes(released_folder: Path) -> None:
    released = json.loads((released_folder / "released_ae_keys.json").read_text())
    with torch.device("meta"):
        built = AutoEncoder(AutoEncoderConfig()).state_dict()
    assert {name: list(tensor.shape) for name, tensor in built.items()} == released


def test_channels_must_fill_the_normalisation_groups() -> None:
    with pytest.raises(ValueError, match=r"ch 24 times ch_mult\[0\] 1 is 24 channels.*multiple of 32"):
        AutoEncoderConfig(ch=24)
