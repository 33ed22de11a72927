"""A small random BAGEL with eyes in the released layout, and six fine-tuning examples with pictures of several sizes."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from tests.unigrpo.models.fakes import CONFIG
from tests.unigrpo.released_tokenizer import save_released_tokenizer, with_its_tokens
from unigrpo.models.bagel.autoencoder import AutoEncoder
from unigrpo.models.bagel.checkpoint import save_model
from unigrpo.models.bagel.config import BagelConfig
from unigrpo.models.bagel.config_parts import VisionConfig
from unigrpo.models.bagel.model import Bagel
from unigrpo.pictures import encode_png

SEEING = replace(
    with_its_tokens(CONFIG),
    max_position_embeddings=512,
    vision=VisionConfig(
        hidden_size=16,
        intermediate_size=20,
        num_layers=1,
        num_heads=2,
        patch_size=4,
        image_size=40,
        num_channels=3,
        layer_norm_eps=1e-6,
        max_patches_per_side=10,
    ),
)
"""Latents of 8 pixels a side, pictures of 40 at most; patches of 4 pixels."""
SIZES = [(40, 40), (20, 40), (64, 48), (33, 17), (40, 24), (8, 8)]
"""Height and width of what each line paints; sources have them backwards."""
PAINTED = [(40, 40), (16, 40), (40, 32), (40, 16), (40, 24), (16, 16)]
"""Those with the shorter side at 20 or more and the longer at 40 or less, then to the nearest multiple of 8 (20 to 16)."""


def save_seeing_model(folder: Path, config: BagelConfig = SEEING) -> Path:
    """A checkpoint folder with random weights and a byte-level BPE tokenizer."""
    torch.manual_seed(0)
    folder.mkdir()
    scratch = folder.with_name(f"{folder.name}-tokenizer")
    scratch.mkdir()
    save_released_tokenizer(scratch)
    autoencoder = AutoEncoder(config.vae)
    save_model(folder, Bagel(config).state_dict(), autoencoder, config, tokenizer_path=scratch / "tokenizer.json")
    return folder


def write_examples(folder: Path, *, sources: bool = True) -> Path:
    """`data.jsonl` and its pictures: even lines have a thought, the last three a source picture, if there are any."""
    generator = torch.Generator().manual_seed(0)
    lines = []
    for index, (height, width) in enumerate(SIZES):
        line = {"prompt": f"the thing {index}", "image": f"{index}.png"}
        if index % 2 == 0:
            line["thought"] = f"<think> the thing is {index} </think>"
        if sources and index >= 3:
            line["source_image"] = f"source-{index}.png"
            picture = torch.randint(256, (width, height, 3), generator=generator).byte()
            (folder / line["source_image"]).write_bytes(encode_png(picture))
        (folder / line["image"]).write_bytes(encode_png(torch.randint(256, (height, width, 3), generator=generator).byte()))
        lines.append(json.dumps(line))
    path = folder / "data.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
