"""The autoencoder between pixels and latents: FLUX's convolutional layout and released names, sizes from the config.

Shapes: S samples, HW pixels, hw latent pixels, Z latent channels, L latent tokens, C channels of a token.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unigrpo.models.bagel.config import NORM_GROUPS, AutoEncoderConfig


def to_tokens(latent_SZhw: Tensor, patch: int) -> Tensor:
    """Latents to tokens [S, L, C], rows first; the channels of a token run (dy, dx, z) with z fastest."""
    num_samples, channels, height, width = latent_SZhw.shape
    blocks = latent_SZhw.reshape(num_samples, channels, height // patch, patch, width // patch, patch)
    return blocks.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def from_tokens(tokens_SLC: Tensor, grid_hw: tuple[int, int], patch: int) -> Tensor:
    """The inverse of to_tokens for a picture of rows x columns tokens: [S, Z, rows * patch, columns * patch]."""
    rows, columns = grid_hw
    blocks = tokens_SLC.reshape(tokens_SLC.shape[0], rows, columns, patch, patch, -1)
    return blocks.permute(0, 5, 1, 3, 2, 4).reshape(tokens_SLC.shape[0], -1, rows * patch, columns * patch)


def to_uint8(image_S3HW: Tensor) -> Tensor:
    """Decoded pictures around [-1, 1] to bytes [S, H, W, 3]: clamped to the range, truncated."""
    return ((image_S3HW * 0.5 + 0.5).clamp(0, 1) * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


class AutoEncoder(nn.Module):
    """Pictures [S, 3, H, W] in [-1, 1] to scaled latents [S, Z, h, w] and back."""

    def __init__(self, config: AutoEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def posterior(self, image_S3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the unscaled latents, each [S, Z, h, w]."""
        mean, logvar = self.encoder(image_S3HW).chunk(2, 1)
        return mean, logvar

    def encode(self, image_S3HW: Tensor, eps: Tensor | None) -> Tensor:
        """Scaled latents: mean + std * eps, or the mean itself when eps is None."""
        mean, logvar = self.posterior(image_S3HW)
        z = mean if eps is None else mean + torch.exp(0.5 * logvar) * eps
        return self.config.scale_factor * (z - self.config.shift_factor)

    def decode(self, latent_SZhw: Tensor) -> Tensor:
        """Pictures from scaled latents; see to_uint8 for bytes."""
        image: Tensor = self.decoder(latent_SZhw / self.config.scale_factor + self.config.shift_factor)
        return image


class Encoder(nn.Module):
    """Halves the picture at every level but the last."""

    def __init__(self, config: AutoEncoderConfig) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(config.in_channels, config.ch, 3, padding=1)
        self.down = nn.ModuleList()
        channels = config.ch
        for depth, multiple in enumerate(config.ch_mult):
            level = OrderedDict[str, nn.Module](block=_blocks(channels, config.ch * multiple, config.num_res_blocks))
            channels = config.ch * multiple
            if depth < len(config.ch_mult) - 1:
                level["downsample"] = Downsample(channels)
            self.down.append(nn.Sequential(level))
        self.mid = Middle(channels)
        self.norm_out = _norm(channels)
        self.conv_out = nn.Conv2d(channels, 2 * config.z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        moments: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(x))))
        return moments


class Decoder(nn.Module):
    """Doubles the picture at every level but the finest; `up` is numbered from the finest, as released."""

    def __init__(self, config: AutoEncoderConfig) -> None:
        super().__init__()
        channels = config.ch * config.ch_mult[-1]
        self.conv_in = nn.Conv2d(config.z_channels, channels, 3, padding=1)
        self.mid = Middle(channels)
        levels: list[nn.Module] = []
        for depth in reversed(range(len(config.ch_mult))):
            width = config.ch * config.ch_mult[depth]
            level = OrderedDict[str, nn.Module](block=_blocks(channels, width, config.num_res_blocks + 1))
            channels = width
            if depth:
                level["upsample"] = Upsample(channels)
            levels.insert(0, nn.Sequential(level))
        self.up = nn.ModuleList(levels)
        self.norm_out = _norm(channels)
        self.conv_out = nn.Conv2d(channels, config.in_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in reversed(self.up):
            x = level(x)
        image: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return image


class Middle(nn.Module):
    """Residual, attention, residual at the coarsest size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block_1 = ResBlock(channels, channels)
        self.attn_1 = PixelAttention(channels)
        self.block_2 = ResBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return y


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), the shortcut projected where the channels change."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = _norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = _norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return y + (x if self.nin_shortcut is None else self.nin_shortcut(x))


class PixelAttention(nn.Module):
    """Single-head attention of every latent pixel to all of its picture, with a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        q, k, v = (conv(normed).flatten(2).transpose(1, 2)[:, None] for conv in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).reshape(x.shape)
        projected: Tensor = self.proj_out(mixed)
        return x + projected


class Downsample(nn.Module):
    """Stride-2 convolution, padded on the right and bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return y


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return y


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(NORM_GROUPS, channels, eps=1e-6)


def _blocks(in_channels: int, out_channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResBlock(out_channels if index else in_channels, out_channels) for index in range(count)))
