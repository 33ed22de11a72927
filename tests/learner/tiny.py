"""A real Bagel of a few thousand parameters, a run over it, and samples as its own reasoner and denoiser would make them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.algorithms import FlowTerm
from configs.guidance import Guidance
from configs.load import parse
from configs.schema import SftConfig, TrainConfig
from learner.learner import Learner
from learner.optimizer import Rank
from unigrpo.algo.flow import time_grid, window_start
from unigrpo.algo.guidance import guided_velocity, is_guided
from unigrpo.denoise import denoise, seeded_noise, trajectories
from unigrpo.layout import segments_to_ids
from unigrpo.models.bagel.autoencoder import AutoEncoder
from unigrpo.models.bagel.checkpoint import load_model, save_model
from unigrpo.models.bagel.config import AutoEncoderConfig, BagelConfig
from unigrpo.models.bagel.model import Bagel
from unigrpo.models.bagel.packing import splits_of
from unigrpo.types import Given, GivenPicture, Sample, Span, Thought, Trajectory

VOCAB = 40
PROMPT = Given(token_ids=(5, 6, 7))
ContextSpans = Sequence[Given | GivenPicture | Thought]


def save_tiny_model(folder: Path) -> Path:
    """A checkpoint folder with random weights: 2 layers, 2x2 latent tokens of 16 channels for an 8x8 picture."""
    torch.manual_seed(0)
    config = BagelConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        rope_theta=1e4,
        rms_norm_eps=1e-6,
        max_position_embeddings=64,
        max_latent_size=4,
        time_features=32,
        bos_token_id=36,
        eos_token_id=37,
        start_of_image=38,
        end_of_image=39,
        vae=AutoEncoderConfig(ch=32, ch_mult=(1, 1), num_res_blocks=1, z_channels=4),
    )
    save_model(folder, Bagel(config).state_dict(), AutoEncoder(config.vae), config, tokenizer_path=None)
    return folder


def make_config(model: Path, run_dir: Path, kind: str = "unigrpo", **changes: Any) -> TrainConfig:
    """A training config over the tiny model; `changes` are dotted keys, such as learner__zero_stage=3."""
    text, flow = kind in ("unigrpo", "text_grpo", "uni_fpo"), kind in ("unigrpo", "flow_grpo")
    algorithm: dict[str, Any] = {"kind": kind}
    if kind != "refl":
        algorithm["ppo_epochs"] = 1
    if flow:
        algorithm |= {"flow_clip": 1e-4, "regulariser": {"kind": "velocity_mse", "weight": 1e-3}}
        algorithm["window"] = {"range": [0, 4], "size": 2}
    rates = {"text_learning_rate": 1e-3} if text else {}
    if kind != "text_grpo":
        rates["generation_learning_rate"] = 1e-3
    values: dict[str, Any] = {
        "seed": 3,
        "steps": 4,
        "run_dir": run_dir,
        "model": {"path": model, "system_prompt": ""},
        "prompts": {"kind": "shapes"},
        "reward": {"kind": "random"},
        "rollout": {"prompts_per_step": 2, "group_size": 4, "max_thought_tokens": 8},
        "sampler": {"num_points": 6, "height": 8, "width": 8},
        "algorithm": algorithm,
        "learner": {**rates, "eps": 1e-6, "text_micro_batch": 3, "flow_micro_batch": 3},
    }
    for key, value in changes.items():
        *sections, name = key.split("__")
        place = values
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    config = parse(values, source="test")
    assert isinstance(config, TrainConfig)
    return config


def make_learner(config: TrainConfig | SftConfig, rank: Rank) -> Learner:
    return Learner(config, rank.rank, rank.world_size, rank.master_addr, rank.master_port)


def sample_step(
    config: TrainConfig, step: int, advantages: Sequence[float], lengths: Sequence[int] = (2, 3, 4, 5)
) -> list[Sample]:
    """One sample an advantage, which all it made shares, by the start checkpoint's weights.

    Thoughts take turns in length, the second is truncated.
    """
    assert config.model.path is not None
    model = load_model(config.model.path).model
    generator = torch.Generator().manual_seed(100 + step)
    spans_S = [_spans(model, config, step, index, lengths[index % len(lengths)], generator) for index in range(len(advantages))]
    return [
        Sample(prompt="a red circle", spans=spans, advantages=(advantage,) * num_made(spans))
        for spans, advantage in zip(spans_S, advantages, strict=True)
    ]


def num_made(spans: Sequence[Span]) -> int:
    """How many spans of a sample the policy made."""
    return sum(isinstance(span, Thought | Trajectory) for span in spans)


@torch.no_grad()
def _spans(
    model: Bagel, config: TrainConfig, step: int, index: int, length: int, generator: torch.Generator
) -> tuple[Span, ...]:
    context: list[Given | GivenPicture | Thought] = [PROMPT]
    if config.rollout.thinks:
        context.append(_thought(model, step, length, truncated=index == 1, generator=generator))
    if "generation" not in config.algorithm.trains:
        return tuple(context)
    images = config.rollout.images_per_thought
    return (*context, *(_painted(model, config, step, index * images + image, context) for image in range(images)))


def _thought(model: Bagel, step: int, length: int, *, truncated: bool, generator: torch.Generator) -> Thought:
    tokens = model.config
    ids = tuple(torch.randint(0, 30, (length,), generator=generator).tolist()) + (tokens.eos_token_id,) * (not truncated)
    prefix = [*segments_to_ids([PROMPT.token_ids], tokens), tokens.bos_token_id]
    hidden, _ = model.prefill(torch.tensor([[*prefix, *ids[:-1]]]), torch.tensor([len(prefix) + len(ids) - 1]))
    logp = model.logits(hidden[0, len(prefix) - 1 :]).log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0]
    return Thought(token_ids=ids, behavior_logp=tuple(logp.tolist()), truncated=truncated, policy_version=step)


def _painted(model: Bagel, config: TrainConfig, step: int, seed: int, context: ContextSpans) -> Trajectory:
    """A painting at the window of its step, or at its own."""
    grid_hw = model.config.grid_hw(config.sampler.height, config.sampler.width)
    shape_LC = (grid_hw[0] * grid_hw[1], model.config.latent_channels)
    window, steps = config.algorithm.window, range(0)
    if window is not None:
        start = window_start(config.seed if window.placement == "step" else seed, step, window.range, window.size)
        steps = range(start, start + window.size)
    guidance = config.algorithm.guidance if isinstance(config.algorithm, FlowTerm) else None
    denoised = denoise(
        _velocity(model, context, grid_hw, guidance),
        seeded_noise([seed], "start", shape_LC),
        time_grid(config.sampler.num_points, config.sampler.shift),
        [steps],
        0.0 if window is None else window.noise_level,
        lambda k: seeded_noise([seed], k, shape_LC),
    )
    scale = 1.0 if guidance is None else guidance.text_scale
    [trajectory] = trajectories(denoised, grid_hw=grid_hw, cfg_scale=scale, policy_version=step)
    return trajectory


def _velocity(
    model: Bagel, context: ContextSpans, grid_hw: tuple[int, int], guidance: Guidance | None
) -> Callable[[Tensor, float], Tensor]:
    """After these spans; with guidance away from no context at all, which is what comes before the only prompt."""
    whole, nothing = (model.read([splits_of(spans, model.config)]) for spans in (context, ()))

    def velocity(x_SLC: Tensor, t: float) -> Tensor:
        v_SLC = model.velocity(x_SLC, torch.tensor([t]), whole, grid_hw)
        if guidance is None or not is_guided(t, guidance.interval):
            return v_SLC
        return guided_velocity(
            v_SLC,
            model.velocity(x_SLC, torch.tensor([t]), nothing, grid_hw),
            None,
            text_scale=guidance.text_scale,
            image_scale=1.0,
            renorm=guidance.renorm,
            renorm_min=guidance.renorm_min,
        )

    return velocity
