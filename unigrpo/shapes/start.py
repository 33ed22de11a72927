"""What fine-tuning on the shapes world starts from: a trained autoencoder beside a transformer that knows nothing."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from configs.schema import ArchitectureConfig, AutoencoderConfig
from unigrpo.models.bagel.checkpoint import save_model
from unigrpo.models.bagel.config import BagelConfig
from unigrpo.models.bagel.model import Bagel
from unigrpo.seeds import derive_seed
from unigrpo.shapes.autoencoder_training import Progress, train_autoencoder
from unigrpo.shapes.tokenizer import SPECIAL_TOKENS, save_tokenizer, vocabulary
from unigrpo.shapes.world import GRID

ROPE_THETA = 10_000.0
"""Positions here go to a hundred, not to BAGEL's 32,768."""
MAX_POSITIONS = 512


def make_start(
    folder: Path,
    architecture: ArchitectureConfig,
    autoencoder: AutoencoderConfig,
    *,
    seed: int,
    report: Callable[[Progress], None],
) -> None:
    """Write a checkpoint folder in the released layout; the same for the same seed. `report` sees the autoencoder learn."""
    trained = train_autoencoder(autoencoder, seed=seed, report=report)
    bos, eos, start_of_image, end_of_image = (vocabulary()[token] for token in SPECIAL_TOKENS)
    config = BagelConfig(
        vocab_size=len(vocabulary()),
        hidden_size=architecture.hidden_size,
        intermediate_size=architecture.intermediate_size,
        num_layers=architecture.num_layers,
        num_heads=architecture.num_heads,
        num_kv_heads=architecture.num_key_value_heads,
        head_dim=architecture.hidden_size // architecture.num_heads,
        rope_theta=ROPE_THETA,
        rms_norm_eps=1e-6,
        max_position_embeddings=MAX_POSITIONS,
        max_latent_size=GRID,
        vae=trained.config,
        bos_token_id=bos,
        eos_token_id=eos,
        start_of_image=start_of_image,
        end_of_image=end_of_image,
    )
    with TemporaryDirectory() as scratch:
        save_tokenizer(Path(scratch))
        model = new_model(config, seed)
        save_model(folder, model.state_dict(), trained, config, tokenizer_path=Path(scratch) / "tokenizer.json")


def new_model(config: BagelConfig, seed: int) -> Bagel:
    """A transformer with torch's own initial weights, but for three choices.

    The generation expert starts as a copy of the text expert, the velocity head at zero, as BAGEL did, and token embeddings
    at the scale of the position table, or one would drown the other.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "weights"))
        model = Bagel(config)
        nn.init.normal_(model.language_model.model.embed_tokens.weight, std=0.5**0.5)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            if "_moe_gen" in name:
                parameter.copy_(parameters[name.replace("_moe_gen", "")])
        model.llm2vae.weight.zero_()
        model.llm2vae.bias.zero_()
    return model
