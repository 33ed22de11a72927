"""What the learner refuses to learn from: anything that was not sampled the way it would replay it, and ratios of noise.

A silent difference here is a bias on every ratio, larger than the clip, so each one ends the step with both
values in the message.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from configs.algorithms import FlowTerm
from configs.schema import TrainConfig
from learner.window import Window
from unigrpo.algo.stats import Stats
from unigrpo.models.bagel.config import BagelConfig
from unigrpo.types import GivenPicture, Sample, Thought, Trajectory

TIME_TOLERANCE = 1e-6
"""How far a grid or noise level may be off: rounding of a float32 on its way, not another schedule."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What every sample of a step must agree with."""

    step: int
    """The version of the weights that sampled, and the turn of the loop."""
    num_thoughts: int
    num_paintings: int
    """Of a sample."""
    window: Window
    grid_hw: tuple[int, int]
    """Rows and columns of latent tokens."""
    cfg_scale: float
    model: BagelConfig
    """Sizes of latents and of pictures that are seen."""

    @classmethod
    def of(cls, config: TrainConfig, model: BagelConfig, step: int) -> "Expected":
        """What this run's samples of a step are; an objective that trains no painter leaves no paintings in them."""
        algorithm = config.algorithm
        guidance = algorithm.guidance if isinstance(algorithm, FlowTerm) else None
        return cls(
            step=step,
            num_thoughts=int(config.rollout.thinks),
            num_paintings=config.rollout.images_per_thought if "generation" in algorithm.trains else 0,
            window=Window.of(config, step),
            grid_hw=model.grid_hw(config.sampler.height, config.sampler.width),
            cfg_scale=1.0 if guidance is None else guidance.text_scale,
            model=model,
        )

    def check(self, samples: Sequence[Sample]) -> None:
        """Raises ValueError at the first sample that does not agree, naming what it holds and what was expected."""
        for index, sample in enumerate(samples):
            thoughts = [span for span in sample.spans if isinstance(span, Thought)]
            paintings = [span for span in sample.spans if isinstance(span, Trajectory)]
            self._same(index, "number of thoughts", len(thoughts), self.num_thoughts)
            self._same(index, "number of paintings", len(paintings), self.num_paintings)
            self._same(index, "number of advantages", len(sample.advantages), len(thoughts) + len(paintings))
            for advantage in sample.advantages:
                if not math.isfinite(advantage):
                    raise ValueError(
                        f"sample {index} has advantage {advantage}, which must be finite; drop its group, never score it 0"
                    )
            for thought in thoughts:
                self._same(index, "thought's policy version", thought.policy_version, self.step)
                self._same(index, "number of a thought's log-probabilities", len(thought.behavior_logp), len(thought.token_ids))
            for trajectory in paintings:
                self._check_trajectory(index, trajectory)
            for span in sample.spans:
                if isinstance(span, GivenPicture):
                    self._check_picture(index, span)

    def _check_picture(self, index: int, picture: GivenPicture) -> None:
        """Both blocks as a denoiser sees them: condition dropout is fine-tuning's alone."""
        vision, latent_LC, seen_HW3 = self.model.vision, picture.latent_LC, picture.seen_HW3
        self._same(index, "model's sight of given pictures", vision is not None, True)
        self._same(
            index, "presence of a given picture's latents and patches", (latent_LC is None, seen_HW3 is None), (False,) * 2
        )
        assert vision is not None
        assert latent_LC is not None
        assert seen_HW3 is not None
        rows, columns = picture.grid_hw
        longest = self.model.max_latent_size
        self._same(index, "fit of a given picture's latent grid", max(rows, columns) <= longest, True)
        self._same(index, "shape of given latents", tuple(latent_LC.shape), (rows * columns, self.model.latent_channels))
        self._same(index, "dtype of given latents", latent_LC.dtype, torch.float32)
        self._same(index, "number of given latents that are not finite", int((~latent_LC.isfinite()).sum()), 0)
        height, width, channels = seen_HW3.shape
        self._same(
            index, "dtype and channels of a given picture", (seen_HW3.dtype, channels), (torch.uint8, vision.num_channels)
        )
        for name, side in (("height", height), ("width", width)):
            patches, rest = divmod(side, vision.patch_size)
            fits = rest == 0 and 0 < patches <= vision.max_patches_per_side
            self._same(index, f"{name} of a given picture ({side} pixels) in whole patches of the table", fits, True)

    def _check_trajectory(self, index: int, trajectory: Trajectory) -> None:
        self._same(index, "painting's policy version", trajectory.policy_version, self.step)
        self._same(index, "CFG scale", trajectory.cfg_scale, self.cfg_scale)
        self._same(index, "number of time points", len(trajectory.grid_N), len(self.window.grid_N))
        if self.window.size and trajectory.start not in self.window.starts:
            self._same(index, "window start", trajectory.start, " or ".join(map(str, self.window.starts)))
        self._same(index, "latent grid", tuple(trajectory.grid_hw), self.grid_hw)
        shape_LC = (self.grid_hw[0] * self.grid_hw[1], self.model.latent_channels)
        self._check_latents(index, "latent_LC", trajectory.latent_LC, shape_LC)
        for name in ("x_WLC", "x_next_WLC", "mean_WLC"):
            self._check_latents(index, name, getattr(trajectory, name), (self.window.size, *shape_LC))
        self._close(index, "time grid", trajectory.grid_N, self.window.grid_N)
        self._close(index, "noise level", trajectory.sigma_W, self.window.sigma(trajectory.start))

    def _check_latents(self, index: int, name: str, latents: Tensor, shape: tuple[int, ...]) -> None:
        self._same(index, f"shape of {name}", tuple(latents.shape), shape)
        self._same(index, f"dtype of {name}", latents.dtype, torch.float32)
        self._same(index, f"number of elements of {name} that are not finite", int((~latents.isfinite()).sum()), 0)

    def _same(self, index: int, what: str, given: object, expected: object) -> None:
        if given != expected:
            raise ValueError(
                f"sample {index}: the {what} is {given}, but the learner's own is {expected}; "
                "sample with the weights of this step and the learner's own config"
            )

    def _close(self, index: int, what: str, given: Tensor, expected: Tensor) -> None:
        self._same(index, f"shape of the {what}", tuple(given.shape), tuple(expected.shape))
        gap = (given.double() - expected).abs()
        if not bool((gap <= TIME_TOLERANCE).all()):
            worst = int(gap.nan_to_num(math.inf).argmax())
            self._same(index, f"{what} at {worst}", given[worst].item(), expected[worst].item())


def require_on_policy(stats: Mapping[str, Stats]) -> None:
    """`stats` are those of a step's first update, by term, over all ranks: the policy is still the old one, every ratio 1.

    Raises ArithmeticError where a clip binds already: what passes with and without gradient differ by is noise then, and would
    decide what is learned.
    """
    for term, each in stats.items():
        told = each.summary()
        if clipped := told.get("clip_fraction"):
            raise ArithmeticError(
                f"before the first update of the step {clipped:.2%} of the {term} ratios lie beyond their clip (largest "
                f"log-ratio {told['log_ratio_max']:.3g}), but old and current policy are the same there: the learner's kernels "
                "answer otherwise with a gradient than without; choose deterministic ones, or learner.dtype float32"
            )
