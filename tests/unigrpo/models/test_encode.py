"""Pictures on their way in: what the autoencoder gives, at the size of the rule, with patches cut from that."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from tests.cluster.seeing import SEEING
from unigrpo.models.bagel.autoencoder import AutoEncoder
from unigrpo.models.bagel.encode import given_picture, latent_tokens
from unigrpo.models.bagel.preprocess import latent_rule

torch.manual_seed(0)
AUTOENCODER = AutoEncoder(SEEING.vae).requires_grad_(False)
PICTURE = torch.randint(256, (64, 48, 3), generator=torch.Generator().manual_seed(1)).byte()


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def test_latent_tokens_are_a_draw_from_the_posterior() -> None:
    image_HW3 = PICTURE[:24, :40]
    latent_LC, grid_hw = latent_tokens(image_HW3, AUTOENCODER, SEEING, seeded())
    image_13HW = torch.from_numpy(image_HW3.numpy().astype(np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
    mean, logvar = AUTOENCODER.encoder(image_13HW).chunk(2, 1)
    eps = torch.randn((4, 6, 10), generator=seeded())
    z_Zhw = (0.7 * (mean + (logvar / 2).exp() * eps - 0.1))[0]
    assert grid_hw == (3, 5)
    assert latent_LC.shape == (15, 16)
    for row, column in ((0, 0), (0, 4), (2, 1)):
        block_Zyx = z_Zhw[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert_close(latent_LC[5 * row + column], block_Zyx.permute(1, 2, 0).flatten(), rtol=1e-4, atol=1e-5)


def test_a_size_that_is_not_painted_is_refused() -> None:
    with pytest.raises(ValueError, match="a painting's height is 64 pixels; allowed are multiples of 8 up to 40"):
        latent_tokens(PICTURE, AUTOENCODER, SEEING, seeded())


def test_a_given_picture_is_latents_at_the_rule_s_size_and_patches_cut_from_that() -> None:
    picture = given_picture(PICTURE, latent_rule(SEEING), AUTOENCODER, SEEING, seeded())
    sized = np.array(Image.fromarray(PICTURE.numpy()).resize((32, 40), Image.Resampling.BICUBIC))  # 48 * 40 / 64 is 30
    latent_LC, grid_hw = latent_tokens(torch.from_numpy(sized), AUTOENCODER, SEEING, seeded())
    assert picture.grid_hw == grid_hw == (5, 4)
    assert picture.latent_LC is not None
    assert torch.equal(picture.latent_LC, latent_LC)
    assert picture.seen_HW3 is not None
    assert np.array_equal(picture.seen_HW3.numpy(), sized)
    assert SEEING.vision is not None
    smaller = replace(SEEING, vision=replace(SEEING.vision, max_patches_per_side=5, image_size=20))
    seen_HW3 = given_picture(PICTURE, latent_rule(SEEING), AUTOENCODER, smaller, seeded()).seen_HW3
    assert seen_HW3 is not None
    expected = Image.fromarray(sized).resize((16, 20), Image.Resampling.BICUBIC)
    assert np.array_equal(seen_HW3.numpy(), np.array(expected))


def test_a_block_that_is_left_out_leaves_its_grid() -> None:
    rule = latent_rule(SEEING)
    unseen = given_picture(PICTURE, rule, AUTOENCODER, SEEING, seeded(), patches=False)
    whole = given_picture(PICTURE, rule, AUTOENCODER, SEEING, seeded())
    assert unseen.seen_HW3 is None
    assert unseen.latent_LC is not None
    assert whole.latent_LC is not None
    assert torch.equal(unseen.latent_LC, whole.latent_LC)
    nothing = given_picture(PICTURE, rule, AUTOENCODER, SEEING, seeded(), latents=False, patches=False)
    assert (nothing.latent_LC, nothing.seen_HW3, nothing.grid_hw) == (None, None, (5, 4))
