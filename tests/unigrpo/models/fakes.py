"""A small BAGEL whose head dim is not hidden / heads, whose heads are grouped, whose pictures are 4 times their latents."""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from unigrpo.models.bagel.autoencoder import AutoEncoder
from unigrpo.models.bagel.config import AutoEncoderConfig, BagelConfig, VisionConfig
from unigrpo.models.bagel.context import Context
from unigrpo.models.bagel.model import Bagel
from unigrpo.models.bagel.packing import Clean, Gap, Noised, Seen, Split, Text, pack

CONFIG = BagelConfig(
    vocab_size=60,
    hidden_size=24,
    intermediate_size=40,
    num_layers=2,
    num_heads=6,
    num_kv_heads=2,
    head_dim=8,
    rope_theta=1e4,
    rms_norm_eps=1e-5,
    max_position_embeddings=256,
    max_latent_size=5,
    bos_token_id=56,
    eos_token_id=57,
    start_of_image=58,
    end_of_image=59,
    vae=AutoEncoderConfig(ch=32, ch_mult=(1, 1, 2), num_res_blocks=1, z_channels=4, scale_factor=0.7, shift_factor=0.1),
)
SIGHTED = replace(
    CONFIG,
    vision=VisionConfig(
        hidden_size=12,
        intermediate_size=20,
        num_layers=2,
        num_heads=3,
        patch_size=2,
        image_size=8,
        num_channels=3,
        layer_norm_eps=1e-5,
        max_patches_per_side=4,
    ),
)
"""The same with a vision tower."""
Grid = tuple[int, int]
packed_row = partial(pack, config=SIGHTED, device=torch.device("cpu"), dtype=torch.float64)


def random_model(dtype: torch.dtype, config: BagelConfig = CONFIG) -> Bagel:
    """Random norms and biases too, so that no routing mistake can hide."""
    generator = torch.Generator().manual_seed(0)
    model = Bagel(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            drawn = torch.randn(value.shape, generator=generator)
            value.copy_(1 + 0.3 * drawn if "norm" in name else 0.3 * drawn)
    return model.to(dtype)


def random_autoencoder() -> AutoEncoder:
    torch.manual_seed(0)
    return AutoEncoder(CONFIG.vae)


def segments(*lengths: int, seed: int = 0) -> list[Tensor]:
    """Random id lists of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, CONFIG.vocab_size, (length,), generator=generator) for length in lengths]


def padded(segments_S: list[Tensor], pad: int = 0) -> tuple[Tensor, Tensor]:
    """Right-padded ids [S, T] and lengths [S]."""
    ids_ST = torch.nn.utils.rnn.pad_sequence(segments_S, batch_first=True, padding_value=pad)
    return ids_ST, torch.tensor([len(each) for each in segments_S])


def said(model: Bagel, *texts: Tensor) -> Context:
    """The context of one sample that said these segments, prefilled one after another."""
    context = model.empty_context(1)
    for text in texts:
        _, context = model.prefill(text[None], torch.tensor([len(text)]), context)
    return context


def drawn(seed: int, *shape: int) -> Tensor:
    """Standard normal, float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def text(length: int, seed: int = 0) -> Text:
    """Random ids."""
    return Text(tuple(segments(length, seed=seed)[0].tolist()))


def clean(grid_hw: Grid, seed: int = 0) -> Clean:
    """Random latents."""
    return Clean(drawn(seed, grid_hw[0] * grid_hw[1], SIGHTED.latent_channels), grid_hw)


def noised(grid_hw: Grid, t: float = 0.6, seed: int = 0) -> Noised:
    """Random latents."""
    return Noised(drawn(seed, grid_hw[0] * grid_hw[1], SIGHTED.latent_channels), t, grid_hw)


def seen(grid_hw: Grid, seed: int = 0) -> Seen:
    """Random patches."""
    assert SIGHTED.vision is not None
    return Seen(drawn(seed, grid_hw[0] * grid_hw[1], SIGHTED.vision.patch_channels), grid_hw)


def random_sample(generator: random.Random) -> list[Split]:
    """Up to 8 splits of any kind, a text among them; pictures of one sample share a size."""
    kinds = generator.choices(("text", "clean", "seen", "noised", "gap"), (4, 2, 2, 2, 1), k=generator.randint(0, 7))
    kinds.insert(generator.randint(0, len(kinds)), "text")
    grid_hw = generator.choice(((1, 1), (2, 3), (3, 2), (1, 4)))
    made: dict[str, Callable[[], Split]] = {
        "text": lambda: text(generator.randint(1, 5)),
        "clean": lambda: clean(grid_hw),
        "seen": lambda: seen(grid_hw),
        "noised": lambda: noised(grid_hw),
        "gap": Gap,
    }
    return [made[kind]() for kind in kinds]
