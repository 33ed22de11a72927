"""The two forward passes of training on a micro-batch, and the picture window they are taken at.

Old, current and reference values all come through these functions, so that they differ by weights and nothing else.

Shapes: S samples or paintings, N predicted tokens of one, M of a micro-batch, U ids of a packed row, W window steps, L latent
tokens, C channels, H hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from configs.schema import SamplerConfig
from learner.batch import FlowBatch, TextBatch
from learner.zero import ZeroEngine
from unigrpo.algo.flow import noise_scale, sde_step, time_grid, window_start
from unigrpo.models.bagel.model import Bagel

LOGITS_AT_ONCE = 1 << 26
"""About how many elements of logits are held at a time."""


@dataclass(frozen=True, slots=True)
class Window:
    """The stochastic steps of one turn of the loop, worked out by the learner itself. Times and scales are float64."""

    grid_N: Tensor
    """[N] the whole time grid."""
    start: int
    """Index of the first stochastic step."""
    t_W: Tensor
    """[W] where each step starts."""
    t_next_W: Tensor
    """[W] where it ends."""
    sigma_W: Tensor
    """[W] noise level."""
    std_W: Tensor
    """[W] standard deviation of its transition, sigma * sqrt(h)."""
    noise_level: float
    """eta."""

    @classmethod
    def of(cls, sampler: SamplerConfig, seed: int, step: int) -> "Window":
        """The window of a step, a function of (seed, step) alone."""
        grid_N = time_grid(sampler.num_points, sampler.shift)
        start = window_start(seed, step, sampler.window_range, sampler.window_size)
        t_W, t_next_W = grid_N[start : start + sampler.window_size], grid_N[start + 1 : start + 1 + sampler.window_size]
        sigma_W = noise_scale(t_W, t_next_W, noise_level=sampler.noise_level)
        return cls(grid_N, start, t_W, t_next_W, sigma_W, sigma_W * (t_W - t_next_W).sqrt(), sampler.noise_level)

    def mean(self, x_SWLC: Tensor, v_SWLC: Tensor) -> Tensor:
        """[S, W, L, C] means of the transitions that velocities lead to."""
        t_W11, t_next_W11 = self.t_W[:, None, None], self.t_next_W[:, None, None]
        return sde_step(x_SWLC, v_SWLC, t_W11, t_next_W11, noise_level=self.noise_level).mean


def in_pieces(batches: Sequence[TextBatch], model: Bagel, engine: ZeroEngine) -> list[TextBatch]:
    """The same, their logits cut into as many pieces as any rank's needs. A collective call: as many batches on every rank."""
    wanted = [len(batch.target_M) * model.config.vocab_size // LOGITS_AT_ONCE + 1 for batch in batches]
    return [replace(batch, num_pieces=int(most)) for batch, most in zip(batches, engine.largest(wanted), strict=True)]


def token_logp(model: Bagel, batch: TextBatch) -> Tensor:
    """[S, N] log-probability of every predicted token, 0 at padding."""
    return predicted_logp(model, model(batch.packed).text_UH, batch)


def predicted_logp(model: Bagel, text_UH: Tensor, batch: TextBatch) -> Tensor:
    """[S, N] of a packed row's hidden states; the head reads the predicting ones only."""
    logp_M = model.token_logp(text_UH[batch.row_M], batch.target_M, batch.num_pieces)
    return logp_M.new_zeros(batch.mask_SN.shape).masked_scatter(batch.mask_SN, logp_M)


def velocity(model: Bagel, batch: FlowBatch) -> Tensor:
    """[S, W, L, C] velocities at the window's latents, all steps of a painting over one context."""
    velocity_NC: Tensor = model(batch.packed).velocity_NC
    return velocity_NC.view(batch.x_SWLC.shape)
