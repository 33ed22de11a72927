"""UniGRPO's on-policy surrogates written out one sample, painting and step at a time, unpadded and with a prefilled context.

Shapes: L latent tokens, C channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from configs.algorithms import FlowTerm, TextTerm
from configs.guidance import Guidance
from configs.schema import TrainConfig
from unigrpo.algo.flow import time_grid
from unigrpo.layout import close_thought, segments_to_ids
from unigrpo.models.bagel.model import Bagel, Context
from unigrpo.types import Given, Sample, Thought, Trajectory

GRID_HW = (2, 2)


def written_out_loss(model: Bagel, config: TrainConfig, samples: Sequence[Sample], old: Bagel) -> Tensor:
    """-1/N_text sum A mean_k logp - lambda/N_paintings sum A mean_w <mean_w, xi_w>/D, at the weights that sampled (`old`)."""
    text, flow = [], []
    for sample in samples:
        advantages = iter(sample.advantages)
        context = [span for span in sample.spans if isinstance(span, Given | Thought)]
        for span in sample.spans:
            if isinstance(span, Thought):
                text.append(next(advantages) * mean_logp(model, context))
            elif isinstance(span, Trajectory):
                flow.append(next(advantages) * mean_of_projections(model, config, context, span, old))
    total = torch.zeros((), dtype=torch.float64)
    if isinstance(config.algorithm, TextTerm):
        total = total - torch.stack(text).mean()
    if isinstance(config.algorithm, FlowTerm):
        total = total - config.algorithm.flow_weight * torch.stack(flow).mean()
    return total


def mean_logp(model: Bagel, context: Sequence[Given | Thought]) -> Tensor:
    """Of the tokens of the thought that ends the context."""
    *given, thought = context
    assert isinstance(thought, Thought)
    hidden, _ = read(model, context)
    first = len(ids_of(model, given))
    logp = model.logits(hidden[0, first : first + len(thought.token_ids)]).log_softmax(-1)
    return logp.gather(-1, torch.tensor(thought.token_ids)[:, None]).mean().double()


def mean_of_projections(
    model: Bagel, config: TrainConfig, context: Sequence[Given | Thought], painting: Trajectory, old: Bagel
) -> Tensor:
    """mean_w <mean_w, xi_w> / D with the noise xi_w that the sampler drew: its gradient is that of RatioNorm's log-ratio."""
    assert isinstance(config.algorithm, FlowTerm)
    times = time_grid(config.sampler.num_points, config.sampler.shift).tolist()
    eta, guidance = config.algorithm.window.noise_level, config.algorithm.guidance
    total = []
    for w, (x_LC, x_next_LC) in enumerate(zip(painting.x_WLC, painting.x_next_WLC, strict=True)):
        t, t_next = times[painting.start + w], times[painting.start + w + 1]
        sigma = eta * (t / (1 - (t_next if t == 1 else t))) ** 0.5
        h = t - t_next

        def mean_of(policy: Bagel, x_LC: Tensor = x_LC, t: float = t, h: float = h, sigma: float = sigma) -> Tensor:
            v_LC = guided_velocity(policy, context, x_LC, t, guidance).double()
            return x_LC - h * (v_LC + sigma**2 / (2 * t) * (x_LC + (1 - t) * v_LC))

        xi_LC = (x_next_LC - mean_of(old).detach()) / (sigma * h**0.5)
        total.append((mean_of(model) * xi_LC).mean())
    return torch.stack(total).mean()


def guided_velocity(
    model: Bagel, context: Sequence[Given | Thought], x_LC: Tensor, t: float, guidance: Guidance | None
) -> Tensor:
    """[L, C]: v_0 + a (v - v_0), shrunk to the norm of v for the whole picture or token by token (BAGEL.md 9)."""
    v_LC = model.velocity(x_LC[None], torch.tensor([t]), read(model, context)[1], GRID_HW)[0]
    if guidance is None or not guidance.interval[0] < t <= guidance.interval[1]:
        return v_LC
    nothing_LC = model.velocity(x_LC[None], torch.tensor([t]), model.read([[]]), GRID_HW)[0]
    guided_LC = nothing_LC + guidance.text_scale * (v_LC - nothing_LC)
    if guidance.renorm == "global":
        factor = v_LC.square().sum().sqrt() / guided_LC.square().sum().sqrt()
    else:
        factor = v_LC.square().sum(-1, keepdim=True).sqrt() / guided_LC.square().sum(-1, keepdim=True).sqrt()
    return guided_LC * factor.clamp(guidance.renorm_min, 1.0)


def read(model: Bagel, context: Sequence[Given | Thought]) -> tuple[Tensor, Context]:
    """Hidden states and keys and values of these texts."""
    ids = torch.tensor([ids_of(model, context)])
    return model.prefill(ids, torch.tensor([ids.shape[1]]))


def ids_of(model: Bagel, spans: Sequence[Given | Thought]) -> list[int]:
    """What the model reads of them."""
    bare = [span.token_ids if isinstance(span, Given) else close_thought(span, model.config.eos_token_id) for span in spans]
    return segments_to_ids(bare, model.config)
