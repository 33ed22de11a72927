"""The two forward passes of training on a micro-batch.

Old, current and reference values all come through these functions, so that they differ by weights and nothing else.

Shapes: S samples or paintings, N predicted tokens of one, M of a micro-batch, U ids of a packed row, W window steps, L latent
tokens, C channels, H hidden size.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from configs.guidance import Guidance
from learner.batch import FlowBatch, TextBatch
from learner.zero import ZeroEngine
from unigrpo.algo.guidance import guided_velocity, is_guided
from unigrpo.models.bagel.model import Bagel

LOGITS_AT_ONCE = 1 << 26
"""About how many elements of logits are held at a time."""


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


def velocity(model: Bagel, batch: FlowBatch, guidance: Guidance | None) -> Tensor:
    """[S, W, L, C] velocities at the latents of windows, all steps of a painting over one context; guided as sampled."""
    velocity_NC: Tensor = model(batch.packed).velocity_NC
    if guidance is None:
        return velocity_NC.view(batch.x_SWLC.shape)
    v_SWLC, v_unprompted_SWLC = velocity_NC.view(2, *batch.x_SWLC.shape)
    guided_SWLC = guided_velocity(
        v_SWLC,
        v_unprompted_SWLC,
        None,
        text_scale=guidance.text_scale,
        image_scale=guidance.image_scale,
        renorm=guidance.renorm,
        renorm_min=guidance.renorm_min,
    )
    is_guided_SW = [[is_guided(t, guidance.interval) for t in times_W] for times_W in batch.t_SW.tolist()]
    return torch.where(torch.tensor(is_guided_SW, device=v_SWLC.device)[..., None, None], guided_SWLC, v_SWLC)
