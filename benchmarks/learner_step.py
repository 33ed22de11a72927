"""A learner step against a plain torch loop over the same micro-batches: same losses, torch AdamW, no DeepSpeed.

Both start from the same weights and do everything a step needs: the old policy and the reference are asked, then two updates.
The learner also packs and checks samples, and keeps metrics; the loop is given its micro-batches packed. Before anything is
timed, one step of each must lead to the same weights.
"""

import copy
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.harness import Figure, report, take_turns
from benchmarks.workload import checkpoint, prompts_and_thoughts, quickstart
from configs.algorithms import UniGrpo, VelocityMse
from configs.schema import TrainConfig
from learner.batch import FlowBatch, Packer, TextBatch, cut, flow_batch, text_batch, text_row, window_steps
from learner.learner import Learner
from learner.policy import token_logp, velocity
from learner.terms.paintings import painting_rows
from learner.window import Window
from rollout_workers.denoiser import Denoiser
from unigrpo.algo.flow import rescale_to_elements, sde_step
from unigrpo.algo.flow_grpo import flow_loss
from unigrpo.algo.text_grpo import text_loss
from unigrpo.buckets import pack
from unigrpo.models.bagel.checkpoint import load_model
from unigrpo.types import Given, Sample, Thought

PLAIN_STEP, NORMS_STEP = 1, 10
"""A turn of the loop like most, and one whose gradient norms are logged a term."""
SAME = 2e-5
"""Largest difference of a weight after one step by both: a few per cent of what an update moves it."""


def measure() -> Iterator[Figure]:
    torch.set_num_threads(1)
    with checkpoint() as folder:
        config = quickstart(folder)
        batches = {step: mini_batches(config, step) for step in (PLAIN_STEP, NORMS_STEP)}
        learner = Learner(config, 0, 1, "127.0.0.1", free_port())
        plain = Plain(config, folder, PLAIN_STEP, batches[PLAIN_STEP])
    start = {name: value.clone() for name, value in learner._engine.parameters()}
    learner.update(PLAIN_STEP, batches[PLAIN_STEP])
    plain.step()
    ours, theirs = dict(learner._engine.parameters()), dict(plain.model.named_parameters())
    gap, moved = difference(ours, theirs), difference(start, theirs)
    if gap > SAME:
        raise RuntimeError(f"after one step the two differ by {gap:.2g} in a weight; they do not compute the same thing")
    times = take_turns(
        {
            "learner": partial(learner.update, PLAIN_STEP, batches[PLAIN_STEP]),
            "learner with norms": partial(learner.update, NORMS_STEP, batches[NORMS_STEP]),
            "plain loop": plain.step,
        }
    )
    samples = sum(len(each) for each in batches[PLAIN_STEP])
    what = f"{samples} samples, {len(batches[PLAIN_STEP])} updates, ZeRO-1, one rank"
    yield Figure(
        name=f"learner step over a plain torch loop ({what})",
        value=times.ratio("learner", "plain loop"),
        unit="x",
        at_most=1.25,
        note=f"{times.note('learner', 'plain loop')}; one step moves weights by up to {moved:.1g}, "
        f"after it the two differ by at most {gap:.1g}",
    )
    yield Figure(
        name="the same on a step that logs gradient norms a loss term (every tenth)",
        value=times.ratio("learner with norms", "plain loop"),
        unit="x",
        note=times.note("learner with norms", "plain loop"),
    )


class Plain:
    """The loop one would write without a framework."""

    def __init__(self, config: TrainConfig, folder: Path, step: int, batches: Sequence[Sequence[Sample]]) -> None:
        self.model = load_model(folder).model
        self._reference = copy.deepcopy(self.model).requires_grad_(False)
        assert isinstance(config.algorithm, UniGrpo)
        self._config, self._algorithm = config, config.algorithm
        self._window = Window.of(config, step)
        rows, columns = self.model.config.grid_hw(config.sampler.height, config.sampler.width)
        self._elements = rows * columns * self.model.config.latent_channels
        self._packed = [self._pack(each) for each in batches]
        settings = config.learner
        self._adamw = torch.optim.AdamW(
            [
                {"params": [p for _, p in self.model.text_parameters()], "lr": settings.text_learning_rate},
                {"params": [p for _, p in self.model.generation_parameters()], "lr": settings.generation_learning_rate},
            ],
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
        )

    def step(self) -> None:
        """Old policy and reference, then one update a mini-batch."""
        with torch.no_grad():
            losses = [self._losses(*packed) for packed in self._packed]
        for mini_batch in losses:
            self._adamw.zero_grad()
            for loss in mini_batch:
                loss().backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self._config.learner.max_grad_norm)
            self._adamw.step()

    def _pack(self, samples: Sequence[Sample]) -> tuple[list[TextBatch], list[FlowBatch], int]:
        config, settings = self.model.config, self._config.learner
        packer = Packer(config=config, device=torch.device("cpu"), dtype=self.model.dtype, sees=False, paints=False)
        texts = [text_row(sample, config) for sample in samples]
        flows = [
            row for sample in samples for row in painting_rows(sample, config, lambda each: window_steps(each, self._window))
        ]
        return (
            [text_batch(rows, packer) for rows in cut(texts, lambda row: row, settings.text_micro_batch)],
            [flow_batch(rows, packer, self._window) for rows in cut(flows, lambda row: row, settings.flow_micro_batch)],
            len(samples),
        )

    def _losses(self, texts: list[TextBatch], flows: list[FlowBatch], count: int) -> list[Callable[[], Tensor]]:
        return [
            *(partial(self._text, batch, token_logp(self.model, batch), count) for batch in texts),
            *(partial(self._flow, batch, *self._anchors(batch), count) for batch in flows),
        ]

    def _anchors(self, batch: FlowBatch) -> tuple[Tensor, Tensor]:
        old_mean_SWLC, _ = self._transition(batch, velocity(self.model, batch, None))
        return old_mean_SWLC, velocity(self._reference, batch, None)

    def _transition(self, batch: FlowBatch, velocity_SWLC: Tensor) -> tuple[Tensor, Tensor]:
        """[S, W, L, C] means and [S, W] standard deviations."""
        times = batch.t_SW[..., None, None], batch.t_next_SW[..., None, None]
        step = sde_step(batch.x_SWLC, velocity_SWLC, *times, noise_level=self._window.noise_level)
        return step.mean, step.std[..., 0, 0]

    def _text(self, batch: TextBatch, old_logp_SN: Tensor, count: int) -> Tensor:
        low, high = self._algorithm.text_clip
        return text_loss(
            token_logp(self.model, batch),
            old_logp_SN,
            batch.mask_SN,
            batch.advantage_SN,
            weight_S=batch.weight_S,
            clip_low=low,
            clip_high=high,
            global_count=count,
        )[0]

    def _flow(self, batch: FlowBatch, old_mean_SWLC: Tensor, reference_SWLC: Tensor, count: int) -> Tensor:
        algorithm = self._algorithm
        assert isinstance(algorithm.regulariser, VelocityMse)
        velocity_SWLC = velocity(self.model, batch, None)
        mean_SWLC, std_SW = self._transition(batch, velocity_SWLC)
        return flow_loss(
            mean_SWLC,
            old_mean_SWLC,
            batch.x_next_SWLC,
            std_SW,
            batch.advantage_S,
            weight_S=batch.weight_S,
            clip=rescale_to_elements(algorithm.flow_clip, self._elements),
            ratio_norm=algorithm.ratio_norm,
            flow_weight=algorithm.flow_weight,
            global_count=count,
            velocity_SWLC=velocity_SWLC,
            reference_velocity_SWLC=reference_SWLC,
            mse_weight=rescale_to_elements(algorithm.regulariser.weight, self._elements),
        ).total


def mini_batches(config: TrainConfig, step: int) -> list[list[Sample]]:
    """A step's samples in its mini-batches: right thoughts, pictures by the real denoiser, advantages of both signs."""
    denoiser = Denoiser(config)
    weights = denoiser._model.named_parameters()
    denoiser.load(step, pack(weights, version=step, bucket_bytes=config.learner.bucket_bytes))
    count = config.rollout.prompts_per_step * config.rollout.group_size
    eos = denoiser._model.config.eos_token_id
    chains = [(Given(token_ids=prompt), _thought((*thought, eos), step)) for prompt, thought in prompts_and_thoughts(count)]
    window = Window.of(config, step)
    steps = [range(window.starts[0], window.starts[0] + window.size)] * count
    _, trajectories = denoiser.paint(chains, range(count), config.sampler.num_points, steps, window.noise_level, None, step)
    samples = [
        Sample(prompt="", spans=(*spans, trajectory), advantages=(index % 5 - 2.0,) * 2)
        for index, (spans, trajectory) in enumerate(zip(chains, trajectories, strict=True))
    ]
    size = count // config.algorithm.mini_batches
    return [samples[i : i + size] for i in range(0, count, size)]


def difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """Largest difference of two sets of weights."""
    return max(float((ours[name] - theirs[name].detach()).abs().max()) for name in theirs)


def free_port() -> int:
    """A port nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _thought(token_ids: tuple[int, ...], step: int) -> Thought:
    return Thought(token_ids=token_ids, behavior_logp=(0.0,) * len(token_ids), truncated=False, policy_version=step)


if __name__ == "__main__":
    report("learner_step", measure())
