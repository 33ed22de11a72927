"""ReFL (unigrpo/algo/refl.py): the picture that a late denoising step predicts, decoded and scored with gradient.

The autoencoder and the reward model are frozen and whole on every rank: they are no part of the engine, and a rank that only
keeps step asks neither. Nothing old is needed: there is no ratio, and the latents are where the sampler stood.

Shapes: S paintings, L latent tokens, C channels, Z latent channels, hw latent pixels, HW pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from configs.algorithms import Refl
from configs.schema import TrainConfig
from learner.batch import FlowBatch, flow_batch, window_steps
from learner.policy import velocity
from learner.terms.base import Loss, Term
from learner.terms.paintings import painting_shares
from learner.window import Window
from learner.zero import ZeroEngine
from unigrpo.algo.refl import predicted_clean, refl_loss
from unigrpo.models.bagel.autoencoder import AutoEncoder, from_tokens
from unigrpo.models.bagel.checkpoint import AUTOENCODER_FILE, load_weights
from unigrpo.models.bagel.model import Bagel
from unigrpo.reward_models.load import load_reward_model
from unigrpo.types import Sample


@dataclass(frozen=True, slots=True)
class ReflWork:
    """A micro-batch of paintings at their late step."""

    batch: FlowBatch
    prompts: tuple[str, ...]
    """[S] what the reward model reads; none of a dummy."""
    global_count: int


class ReflTerm(Term[ReflWork]):
    """Every painting at the one late step of its window."""

    name = "refl"

    def __init__(self, config: TrainConfig, engine: ZeroEngine, model: Bagel, reference: Bagel | None, start: Path) -> None:
        """Raises ValueError for a reward model that is none, or that cannot judge pictures of this size."""
        super().__init__(config, engine, model, reference, start)
        assert isinstance(config.algorithm, Refl)
        self._grid_hw = model.config.grid_hw(config.sampler.height, config.sampler.width)
        choice = config.algorithm.reward_model
        self._reward = load_reward_model(choice.model, choice.path).float().to(engine.device)
        self._reward.require_size(config.sampler.height, config.sampler.width)
        with torch.device("meta"):
            autoencoder = AutoEncoder(model.config.vae)
        self._autoencoder = autoencoder.to_empty(device=engine.device).requires_grad_(False)
        load_weights(self._autoencoder, start / AUTOENCODER_FILE)

    def prepare(self, step: int, samples: Sequence[Sample]) -> list[ReflWork]:
        window = Window.of(self.config, step)
        shares = painting_shares(self, step, samples, lambda painted: window_steps(painted, window))
        return [
            ReflWork(
                flow_batch(some, shares.packer, window),
                tuple(row.prompt for row in some if row.weight),
                shares.global_count,
            )
            for some in shares.cuts
        ]

    def loss(self, micro_batch: ReflWork) -> Loss:
        batch = micro_batch.batch
        velocity_SLC = velocity(self.model, batch, None)[:, 0]
        clean_SLC = predicted_clean(batch.x_SWLC[:, 0], velocity_SLC, batch.t_SW[..., None])
        score_S = self._scores(micro_batch.prompts, clean_SLC) if micro_batch.prompts else 0 * clean_SLC.sum((1, 2))
        loss, stats = refl_loss(score_S, weight_S=batch.weight_S, global_count=micro_batch.global_count)
        return Loss({"refl": loss}, stats)

    def _scores(self, prompts: Sequence[str], clean_SLC: Tensor) -> Tensor:
        """[S], of all pictures at once; where activations are recomputed, of one at a time, which is all that is ever held."""
        if not self.config.learner.activation_checkpointing:
            return self._score(prompts, clean_SLC)
        scores = [
            checkpoint(self._score, [prompt], clean_1LC, use_reentrant=False)
            for prompt, clean_1LC in zip(prompts, clean_SLC.split(1), strict=True)
        ]
        return torch.cat(scores)

    def _score(self, prompts: Sequence[str], clean_SLC: Tensor) -> Tensor:
        latent_SZhw = from_tokens(clean_SLC, self._grid_hw, self.model.config.latent_patch_size)
        image_S3HW = (self._autoencoder.decode(latent_SZhw) * 0.5 + 0.5).clamp(0, 1)
        return self._reward.score(prompts, image_S3HW)
