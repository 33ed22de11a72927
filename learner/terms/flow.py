"""GRPO on the stochastic steps of paintings, and what holds the painter near the reference (paper equations 6 and 8).

Means of the old policy are asked for as in terms/text.py: the flow clip is finer than another engine's rounding. With guidance
in training, old, current and reference velocities are all guided, as the sampler's were.

Shapes: S paintings, W window steps, L latent tokens, C channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from configs import algorithms
from configs.schema import TrainConfig
from learner.batch import FlowBatch, flow_batch, window_steps
from learner.policy import velocity
from learner.terms.base import Loss, Term
from learner.terms.paintings import painting_shares
from learner.window import Window
from learner.zero import ZeroEngine
from unigrpo.algo.adaptive import adapted_weight
from unigrpo.algo.flow import (
    Transition,
    latent_kl_weight,
    noise_scale,
    normalised_log_ratio,
    rescale_to_elements,
    sde_step,
)
from unigrpo.algo.flow_grpo import flow_loss
from unigrpo.algo.stats import Stats
from unigrpo.models.bagel.model import Bagel
from unigrpo.types import Sample

STEP_FIGURES = ("clip_low", "clip_high", "log_ratio_std", "log_ratio_max", "velocity_shift_rms")
"""What is also told of each window step."""
WEIGHT = "flow/regulariser_weight"


@dataclass(frozen=True, slots=True)
class FlowWork:
    """A micro-batch with its anchors."""

    batch: FlowBatch
    old_mean_SWLC: Tensor
    reference_velocity_SWLC: Tensor | None
    global_count: int


class FlowTerm(Term[FlowWork]):
    """Every painting at the steps of its window."""

    name = "flow"

    @classmethod
    def compares(cls, config: TrainConfig) -> bool:
        return not isinstance(_settings(config).regulariser, algorithms.NoRegulariser)

    def __init__(self, config: TrainConfig, engine: ZeroEngine, model: Bagel, reference: Bagel | None, start: Path) -> None:
        super().__init__(config, engine, model, reference, start)
        self._settings = settings = _settings(config)
        rows, columns = model.config.grid_hw(config.sampler.height, config.sampler.width)
        num_elements = rows * columns * model.config.latent_channels
        self._clip = rescale_to_elements(settings.flow_clip, num_elements)
        self._weight = 0.0
        if not isinstance(settings.regulariser, algorithms.NoRegulariser):
            self._weight = rescale_to_elements(settings.regulariser.weight, num_elements)
        self._first_weight = self._weight

    def prepare(self, step: int, samples: Sequence[Sample]) -> list[FlowWork]:
        window, guided = Window.of(self.config, step), self._settings.guidance is not None
        shares = painting_shares(self, step, samples, lambda painted: window_steps(painted, window), guided=guided)
        return [self._anchored(flow_batch(some, shares.packer, window), shares.global_count) for some in shares.cuts]

    def loss(self, micro_batch: FlowWork) -> Loss:
        settings, batch, reference_SWLC = self._settings, micro_batch.batch, micro_batch.reference_velocity_SWLC
        with self.held_context():
            velocity_SWLC = velocity(self.model, batch, settings.guidance)
        transition = self._transition(batch, velocity_SWLC)
        loss = flow_loss(
            transition.mean,
            micro_batch.old_mean_SWLC,
            batch.x_next_SWLC,
            transition.std[..., 0, 0],
            batch.advantage_S,
            weight_S=batch.weight_S,
            clip=self._clip,
            ratio_norm=settings.ratio_norm,
            flow_weight=settings.flow_weight,
            global_count=micro_batch.global_count,
            velocity_SWLC=None if reference_SWLC is None else velocity_SWLC,
            reference_velocity_SWLC=reference_SWLC,
            mse_weight=self._mse_weight(batch),
        )
        return Loss({"flow": loss.policy, "regulariser": loss.regulariser}, loss.stats)

    def mismatch(self, micro_batches: Sequence[FlowWork]) -> dict[str, float]:
        """Root mean square and largest of the normalised log-ratio between the two means of a transition.

        They are to be held against the flow clip.
        """
        ratio_N = torch.cat([self._off_anchor(each).abs().flatten().cpu() for each in micro_batches])
        count, squares = self.engine.total([ratio_N.numel(), float(ratio_N.square().sum())])
        [largest] = self.engine.largest([float(ratio_N.max()) if ratio_N.numel() else 0.0])
        return {"mismatch/flow": (squares / count) ** 0.5, "mismatch/flow_max": largest}

    def resolved(self) -> dict[str, float]:
        if isinstance(self._settings.regulariser, algorithms.NoRegulariser):
            return {"flow/clip": self._clip}
        return {"flow/clip": self._clip, WEIGHT: self._weight}

    def figures(self, step: int, stats: Stats) -> dict[str, float]:
        """Those of all steps, and of each step of the window."""
        figures = super().figures(step, stats)
        if figures.get("reference_velocity_rms"):  # 0 is the head of a model that never learned to paint
            figures["velocity_norm_ratio"] = figures["velocity_rms"] / figures["reference_velocity_rms"]
        for w, place in enumerate(Window.of(self.config, step).names):
            of_step = stats.at(w).summary()
            figures |= {f"{place}/{name}": of_step[name] for name in STEP_FIGURES if name in of_step}
        return figures

    def conclude(self, stats: Stats) -> None:
        """Steers an adaptive regulariser's weight by the drift of the step."""
        regulariser = self._settings.regulariser
        if not isinstance(regulariser, algorithms.AdaptiveVelocityMse):
            return
        summary = stats.summary()
        if summary["reference_velocity_rms"] == 0:
            raise ValueError(
                "the reference paints with a velocity of 0, against which no drift can be measured; start from a model that "
                "has learned to paint, or give algorithm.regulariser.kind velocity_mse"
            )
        drift = summary["velocity_shift_rms"] / summary["reference_velocity_rms"]
        self._weight = adapted_weight(self._weight, drift, regulariser.target, regulariser.rate, least=self._first_weight)

    def state(self) -> dict[str, float]:
        return {WEIGHT: self._weight} if isinstance(self._settings.regulariser, algorithms.AdaptiveVelocityMse) else {}

    def load(self, state: Mapping[str, float]) -> None:
        if not self.state():
            return
        if WEIGHT not in state:
            raise ValueError(
                f"the checkpoint holds no {WEIGHT}, which an adaptive regulariser steers from step to step; it was written "
                "without one: give another run_dir"
            )
        self._weight = state[WEIGHT]

    def _anchored(self, batch: FlowBatch, global_count: int) -> FlowWork:
        guidance = self._settings.guidance
        old_velocity_SWLC = self.engine.compute(lambda: velocity(self.model, batch, guidance))
        old_mean_SWLC = self._transition(batch, old_velocity_SWLC).mean
        if not self.compares(self.config):
            return FlowWork(batch, old_mean_SWLC, None, global_count)
        reference = self.reference
        assert reference is not None
        reference_SWLC = self.engine.compute(lambda: velocity(reference, batch, guidance))
        return FlowWork(batch, old_mean_SWLC, reference_SWLC, global_count)

    def _off_anchor(self, work: FlowWork) -> Tensor:
        """[S, W] normalised log-ratio of the anchor to what the sampler recorded, without dummies."""
        batch = work.batch
        t, t_next = batch.t_SW[..., None, None], batch.t_next_SW[..., None, None]
        std = noise_scale(t, t_next, noise_level=self._settings.window.noise_level) * (t - t_next).sqrt()
        ratio_SW = normalised_log_ratio(work.old_mean_SWLC, batch.behavior_mean_SWLC, batch.x_next_SWLC, std)
        return ratio_SW[batch.weight_S > 0]

    def _transition(self, batch: FlowBatch, velocity_SWLC: Tensor) -> Transition:
        """Of every painting and window step; std is [S, W, 1, 1]."""
        t, t_next = batch.t_SW[..., None, None], batch.t_next_SW[..., None, None]
        return sde_step(batch.x_SWLC, velocity_SWLC, t, t_next, noise_level=self._settings.window.noise_level)

    def _mse_weight(self, batch: FlowBatch) -> float | Tensor:
        """A number for the velocity MSE, [S, W] for the latent KL; 0 without a regulariser."""
        if isinstance(self._settings.regulariser, algorithms.LatentKl):
            scale_SW = latent_kl_weight(batch.t_SW, batch.t_next_SW, noise_level=self._settings.window.noise_level)
            return self._weight * scale_SW
        return self._weight


def _settings(config: TrainConfig) -> algorithms.FlowTerm:
    assert isinstance(config.algorithm, algorithms.FlowTerm)
    return config.algorithm
