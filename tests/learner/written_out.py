"""UniGRPO's surrogates written out one sample, painting and step at a time, unpadded and with a prefilled context.

Shapes: N tokens of a thought, W window steps, L latent tokens, C channels.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.distributions import Normal

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
    for context, span, advantage in taught(samples):
        if isinstance(span, Thought):
            text.append(advantage * mean_logp(model, context))
        else:
            flow.append(advantage * mean_of_projections(model, config, context, span, old))
    total = torch.zeros((), dtype=torch.float64)
    if isinstance(config.algorithm, TextTerm):
        total = total - torch.stack(text).mean()
    if isinstance(config.algorithm, FlowTerm):
        total = total - config.algorithm.flow_weight * torch.stack(flow).mean()
    return total


def log_ratios(
    model: Bagel, old: Bagel, config: TrainConfig, samples: Sequence[Sample]
) -> dict[str, list[tuple[float, Tensor]]]:
    """To the weights that sampled (`old`): the advantage and [N] of every thought (text), and [W] of every painting (flow)."""
    made: dict[str, list[tuple[float, Tensor]]] = {"text": [], "flow": []}
    for context, span, advantage in taught(samples):
        if isinstance(span, Thought):
            made["text"].append((advantage, logp(model, context) - logp(old, context).detach()))
        else:
            made["flow"].append((advantage, log_ratios_of_steps(model, old, config, context, span)))
    return made


def taught(samples: Sequence[Sample]) -> Iterator[tuple[list[Given | Thought], Thought | Trajectory, float]]:
    """Every thought and painting: all texts of its sample, itself, its advantage."""
    for sample in samples:
        context = [span for span in sample.spans if isinstance(span, Given | Thought)]
        spans = [span for span in sample.spans if isinstance(span, Thought | Trajectory)]
        for span, advantage in zip(spans, sample.advantages, strict=True):
            yield context, span, advantage


def clipped_loss(ratios: Sequence[tuple[float, Tensor]], low: float, high: float) -> Tensor:
    """-mean over thoughts or paintings of mean over tokens or steps of min(r A, clip(r, 1 - low, 1 + high) A)."""
    terms = [
        torch.minimum(log_ratio.exp() * advantage, log_ratio.exp().clamp(1 - low, 1 + high) * advantage).mean()
        for advantage, log_ratio in ratios
    ]
    return -torch.stack(terms).mean()


def mean_logp(model: Bagel, context: Sequence[Given | Thought]) -> Tensor:
    """Of the tokens of the thought that ends the context."""
    return logp(model, context).mean()


def logp(model: Bagel, context: Sequence[Given | Thought]) -> Tensor:
    """[N] of the tokens of the thought that ends the context, float64."""
    *given, thought = context
    assert isinstance(thought, Thought)
    hidden, _ = read(model, context)
    first = len(ids_of(model, given))
    logp_NV = model.logits(hidden[0, first : first + len(thought.token_ids)]).log_softmax(-1)
    return logp_NV.gather(-1, torch.tensor(thought.token_ids)[:, None])[:, 0].double()


def mean_of_projections(
    model: Bagel, config: TrainConfig, context: Sequence[Given | Thought], painting: Trajectory, old: Bagel
) -> Tensor:
    """mean_w <mean_w, xi_w> / D with the noise xi_w that the sampler drew: its gradient is that of RatioNorm's log-ratio."""
    total = []
    steps, before = transitions(model, config, context, painting), transitions(old, config, context, painting)
    for step, old_step, x_next_LC in zip(steps, before, painting.x_next_WLC, strict=True):
        xi_LC = (x_next_LC - old_step.mean.detach()) / old_step.stddev
        total.append((step.mean * xi_LC).mean())
    return torch.stack(total).mean()


def log_ratios_of_steps(
    model: Bagel, old: Bagel, config: TrainConfig, context: Sequence[Given | Thought], painting: Trajectory
) -> Tensor:
    """[W] means over D of the log-densities' difference; with RatioNorm of std (that + |shift|^2 / (2 std^2)), equation 5."""
    assert isinstance(config.algorithm, FlowTerm)
    ratios = []
    steps, before = transitions(model, config, context, painting), transitions(old, config, context, painting)
    for step, old_step, x_next_LC in zip(steps, before, painting.x_next_WLC, strict=True):
        old_mean_LC, std_LC = old_step.mean.detach(), old_step.stddev
        ratio_LC = step.log_prob(x_next_LC) - Normal(old_mean_LC, std_LC).log_prob(x_next_LC)
        if config.algorithm.ratio_norm:
            ratio_LC = std_LC * (ratio_LC + (step.mean - old_mean_LC) ** 2 / (2 * std_LC**2))
        ratios.append(ratio_LC.mean())
    return torch.stack(ratios)


def transitions(model: Bagel, config: TrainConfig, context: Sequence[Given | Thought], painting: Trajectory) -> list[Normal]:
    """Of every window step: [L, C] float64 densities of what the sampler draws next (equation 3)."""
    assert isinstance(config.algorithm, FlowTerm)
    times = time_grid(config.sampler.num_points, config.sampler.shift).tolist()
    eta, guidance = config.algorithm.window.noise_level, config.algorithm.guidance
    densities = []
    for w, x_LC in enumerate(painting.x_WLC):
        t, t_next = times[painting.start + w], times[painting.start + w + 1]
        sigma = eta * (t / (1 - (t_next if t == 1 else t))) ** 0.5
        h = t - t_next
        v_LC = guided_velocity(model, context, x_LC, t, guidance).double()
        mean_LC = x_LC - h * (v_LC + sigma**2 / (2 * t) * (x_LC + (1 - t) * v_LC))
        densities.append(Normal(mean_LC, sigma * h**0.5))
    return densities


def guided_velocity(
    model: Bagel, context: Sequence[Given | Thought], x_LC: Tensor, t: float, guidance: Guidance | None
) -> Tensor:
    """[L, C]: v_0 + a (v - v_0), shrunk to the norm of v for the whole picture or token by token."""
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
