"""From a picture's pixels to what the model reads or paints: latent tokens, and patches beside them.

Shapes: HW3 and 3HW a picture, Z channels and hw pixels of its latent, L latent tokens, C channels of a token.
"""

import torch
from torch import Tensor

from unigrpo.models.bagel.autoencoder import AutoEncoder, to_tokens
from unigrpo.models.bagel.config import BagelConfig
from unigrpo.models.bagel.preprocess import ResizeRule, normalised, resized, vision_rule
from unigrpo.types import GivenPicture


@torch.no_grad()
def latent_tokens(
    image_HW3: Tensor, autoencoder: AutoEncoder, config: BagelConfig, generator: torch.Generator
) -> tuple[Tensor, tuple[int, int]]:
    """[L, C] float32 latent tokens of a picture (uint8), drawn from the autoencoder's posterior, and their grid.

    Raises ValueError for a size that the model does not paint.
    """
    height, width, _ = image_HW3.shape
    grid_hw = config.grid_hw(height, width)
    down = autoencoder.config.downsample
    eps_Zhw = torch.randn((autoencoder.config.z_channels, height // down, width // down), generator=generator)
    weight = next(autoencoder.parameters())
    latent_1Zhw = autoencoder.encode(normalised(image_HW3)[None].to(weight), eps_Zhw[None].to(weight))
    return to_tokens(latent_1Zhw, config.latent_patch_size)[0].float().cpu(), grid_hw


def given_picture(
    image_HW3: Tensor,
    rule: ResizeRule,
    autoencoder: AutoEncoder,
    config: BagelConfig,
    generator: torch.Generator,
    *,
    latents: bool = True,
    patches: bool = True,
) -> GivenPicture:
    """A picture of any size as the model sees it: `rule` makes the size of its latents, and of that its patches are cut.

    Blocks that condition dropout leaves out are absent, but the grid is known. The model must have vision.
    """
    sized_HW3 = resized(image_HW3, rule)
    height, width, _ = sized_HW3.shape
    return GivenPicture(
        latent_LC=latent_tokens(sized_HW3, autoencoder, config, generator)[0] if latents else None,
        grid_hw=config.grid_hw(height, width),
        seen_HW3=resized(sized_HW3, vision_rule(config)) if patches else None,
    )
