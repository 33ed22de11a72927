"""Pictures that a checkpoint paints of prompts, in this process: no Ray, no vLLM, and nothing is trained on them.

For a few hundred small pictures, such as those a reward model is tried on; runs and evaluations paint with rollout workers.

Shapes: S samples, T tokens, L latent tokens of a picture, HW3 a picture.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from unigrpo.algo.flow import time_grid
from unigrpo.denoise import denoise, seeded_noise
from unigrpo.layout import segments_to_ids
from unigrpo.models.bagel.autoencoder import from_tokens, to_uint8
from unigrpo.models.bagel.checkpoint import Loaded
from unigrpo.models.bagel.generate import generate
from unigrpo.seeds import derive_seed
from unigrpo.shapes.tokenizer import encode
from unigrpo.shapes.world import PICTURE_PIXELS

NUM_POINTS, SHIFT = 10, 3.0
"""Of the time grid: the quickstart's."""
MAX_THOUGHT_TOKENS = 48


@torch.no_grad()
def paint(loaded: Loaded, prompts: Sequence[str], seeds_S: Sequence[int]) -> list[Tensor]:
    """One [24, 24, 3] uint8 picture a prompt of the shapes world, thought through at temperature 1; a function of its seed."""
    model, config = loaded.model, loaded.config
    ids = [segments_to_ids([encode(prompt)], config) for prompt in prompts]
    _, context = model.prefill(*_padded(ids))
    generators = [torch.Generator().manual_seed(derive_seed(seed, "thought")) for seed in seeds_S]
    thoughts = generate(
        model,
        context,
        start_id=config.bos_token_id,
        end_id=config.eos_token_id,
        max_tokens=MAX_THOUGHT_TOKENS,
        temperature=1.0,
        generators=generators,
    )
    bare = [[token for token in thought.token_ids if token != config.eos_token_id] for thought in thoughts]
    _, context = model.prefill(*_padded([segments_to_ids([each], config) for each in bare]), context)
    grid_hw = config.grid_hw(PICTURE_PIXELS, PICTURE_PIXELS)

    def velocity(x_SLC: Tensor, t: float) -> Tensor:
        return model.velocity(x_SLC, torch.full((len(seeds_S),), t, dtype=torch.float64), context, grid_hw)

    noise_SLC = seeded_noise(seeds_S, "start", (grid_hw[0] * grid_hw[1], config.latent_channels))
    painted = denoise(velocity, noise_SLC, time_grid(NUM_POINTS, SHIFT), None, 0.0, lambda k: noise_SLC)
    return list(to_uint8(loaded.autoencoder.decode(from_tokens(painted.latent_SLC, grid_hw, config.latent_patch_size))))


def _padded(ids_S: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    ids_ST = pad_sequence([torch.tensor(ids) for ids in ids_S], batch_first=True)
    return ids_ST, torch.tensor([len(ids) for ids in ids_S])
