"""FPO on finished paintings (unigrpo/algo/fpo.py): flow-matching losses where the flow term has densities.

The draws of a painting stay fixed for the step and are packed as noised latents over one context, as the steps of a window are.
The old policy's losses are one pass without gradient over the very micro-batches that the updates will see, so every ratio
starts at exactly 1.

Shapes: S paintings, K draws of one painting, L latent tokens, C channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from configs import algorithms
from configs.schema import TrainConfig
from learner.batch import Packer, Row
from learner.terms.base import Loss, Term
from learner.terms.paintings import painting_shares
from unigrpo.algo.fpo import Draws, cfm_loss, draws_for, fpo_loss
from unigrpo.models.bagel.packing import Noised, Packed
from unigrpo.types import Sample, Trajectory


@dataclass(frozen=True, kw_only=True, slots=True)
class FpoBatch:
    """One micro-batch of finished paintings."""

    packed: Packed
    """Contexts, each followed by the noised latents of its painting."""
    noise_SKLC: Tensor
    latent_S1LC: Tensor
    """[S, 1, L, C] float32 finished latents."""
    advantage_S: Tensor
    """[S] float64."""
    weight_S: Tensor
    """[S] 1, or 0 for a dummy."""


@dataclass(frozen=True, slots=True)
class FpoWork:
    """A micro-batch with its anchors."""

    batch: FpoBatch
    old_cfm_SK: Tensor
    global_count: int


class FpoTerm(Term[FpoWork]):
    """Every painting at its draws. learner.flow_micro_batch counts paintings, each with its draws."""

    name = "fpo"

    def prepare(self, step: int, samples: Sequence[Sample]) -> list[FpoWork]:
        shares = painting_shares(self, step, samples, lambda painted: self._noised(painted, step))
        batches = [self._packed(some, shares.packer, step) for some in shares.cuts]
        return [FpoWork(each, self._old_cfm(each), shares.global_count) for each in batches]

    def loss(self, micro_batch: FpoWork) -> Loss:
        settings, batch = _settings(self.config), micro_batch.batch
        with self.held_context():
            cfm_SK = self._cfm(batch)
        loss, stats = fpo_loss(
            cfm_SK,
            micro_batch.old_cfm_SK,
            batch.advantage_S,
            weight_S=batch.weight_S,
            clip=settings.flow_clip,
            elbo_clamp=settings.elbo_clamp,
            flow_weight=settings.flow_weight,
            global_count=micro_batch.global_count,
        )
        return Loss({"fpo": loss}, stats)

    def _packed(self, rows: Sequence[Row], packer: Packer, step: int) -> FpoBatch:
        paintings = [row.trajectory for row in rows if row.trajectory is not None]
        device = self.engine.device
        return FpoBatch(
            packed=packer(rows),
            noise_SKLC=torch.stack([self._draws(each, step).noise_KLC for each in paintings]).to(device),
            latent_S1LC=torch.stack([each.latent_LC for each in paintings])[:, None].to(device),
            advantage_S=torch.tensor([row.advantages[0] for row in rows], dtype=torch.float64, device=device),
            weight_S=torch.tensor([row.weight for row in rows], dtype=torch.float64, device=device),
        )

    def _old_cfm(self, batch: FpoBatch) -> Tensor:
        return self.engine.compute(lambda: self._cfm(batch))

    def _cfm(self, batch: FpoBatch) -> Tensor:
        """[S, K] float64 flow-matching losses of the policy as it is."""
        velocity_SKLC = self.model(batch.packed).velocity_NC.view(batch.noise_SKLC.shape)
        return cfm_loss(velocity_SKLC, batch.noise_SKLC, batch.latent_S1LC)

    def _noised(self, painting: Trajectory, step: int) -> list[Noised]:
        draws = self._draws(painting, step)
        latents_KLC = draws.noised(painting.latent_LC)
        return [Noised(x_LC, t, painting.grid_hw) for x_LC, t in zip(latents_KLC, draws.t_K.tolist(), strict=True)]

    def _draws(self, painting: Trajectory, step: int) -> Draws:
        return draws_for(
            painting.latent_LC,
            seed=self.config.seed,
            step=step,
            num_draws=_settings(self.config).flow_draws,
            shift=self.config.sampler.shift,
        )


def _settings(config: TrainConfig) -> algorithms.FpoTerm:
    assert isinstance(config.algorithm, algorithms.FpoTerm)
    return config.algorithm
