"""One step of UniGRPO: the joint objective over the step's samples, one or more passes, one update a mini-batch.

    before the first update   pack; old log-probabilities and means; reference velocities         (learner/anchor.py)
    for every pass, for every mini-batch
        text micro-batches    clipped surrogate a token, optional KL          (unigrpo/algo/objective.py, equation 2)
        flow micro-batches    clipped surrogate a window step, velocity MSE                       (equations 6 and 8)
        one AdamW update along the gradient of their sum over micro-batches and ranks                (equation 7)

Shapes: S samples, N predicted tokens, W window steps.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor

from configs.schema import LatentKl, NoRegulariser, TrainConfig
from learner.anchor import Anchor, FlowWork, TextWork, Work, mismatch
from learner.batch import MiniBatch
from learner.checks import Expected
from learner.gradients import group_norms
from learner.ledger import Ledger
from learner.optimizer import UpdateStats, figures
from learner.policy import Window, token_logp, velocity
from learner.zero import ZeroEngine
from unigrpo.algo.flow import latent_kl_weight, rescale_to_elements
from unigrpo.algo.objective import FlowLoss, flow_loss, text_loss
from unigrpo.algo.stats import Stats
from unigrpo.models.bagel.model import Bagel
from unigrpo.models.bagel.recompute import held
from unigrpo.types import Sample

Take = Callable[[Iterable[Callable[[], Tensor]]], UpdateStats]
"""Makes one optimizer update of micro-batch losses, at the learning rates of the schedule."""


def needs_reference(config: TrainConfig) -> bool:
    """Whether the objective compares with the frozen reference."""
    return _compares_velocities(config) or _compares_tokens(config)


def updates_per_step(config: TrainConfig) -> int:
    """Optimizer updates of one step."""
    return config.algorithm.ppo_epochs * config.algorithm.mini_batches


class UniGrpoUpdate:
    """The objective of a training run; calling it is one step. Every call is collective."""

    def __init__(self, config: TrainConfig, engine: ZeroEngine, model: Bagel, reference: Bagel | None) -> None:
        """`reference` is given exactly when needs_reference(config)."""
        self._config, self._algorithm = config, config.algorithm
        self._engine, self._model = engine, model
        self._grid_hw = model.config.grid_hw(config.sampler.height, config.sampler.width)
        self._anchor = Anchor(
            engine,
            model,
            config.learner,
            text_reference=reference if _compares_tokens(config) else None,
            flow_reference=reference if _compares_velocities(config) else None,
        )
        self._clip = rescale_to_elements(config.algorithm.flow_clip, self._num_elements)

    @property
    def resolved(self) -> dict[str, float]:
        """Flow clip and regulariser weight as they act at this run's latent size, by metric name."""
        regulariser = self._algorithm.regulariser
        if isinstance(regulariser, NoRegulariser):
            return {"flow/clip": self._clip}
        if isinstance(regulariser, LatentKl):
            return {"flow/clip": self._clip, "flow/regulariser_weight": regulariser.weight}
        weight = rescale_to_elements(regulariser.weight, self._num_elements)
        return {"flow/clip": self._clip, "flow/regulariser_weight": weight}

    def __call__(self, step: int, mini_batches: Sequence[MiniBatch[Sample]], take: Take) -> dict[str, float]:
        """Learn from the samples of a step, this rank's share of each mini-batch.

        Returns metrics over all ranks and updates. Raises ValueError for samples that were not sampled as the learner would
        replay them, before anything is learned, and FloatingPointError where the gradient is not finite.
        """
        window = Window.of(self._config.sampler, self._config.seed, step)
        expected = Expected(step, window, self._grid_hw, self._model.config)
        works = [self._anchor.prepare(mini_batch, expected) for mini_batch in mini_batches]
        metrics = mismatch(works, window.std_W, self._engine) | self._advantages(mini_batches) | self.resolved
        if step % self._config.logging.gradients_every == 0:
            metrics |= self._term_norms(works[0], window)
        updates: list[UpdateStats] = []
        whole = Ledger()
        for _ in range(self._algorithm.ppo_epochs):
            for work in works:
                ledger = Ledger()
                updates.append(take(self._losses(work, window, ledger)))
                if len(updates) == 1:
                    metrics |= {f"on_policy/{name}": value for name, value in ledger.reduced(self._engine).deviations().items()}
                whole.merge(ledger)
        total = whole.reduced(self._engine)
        return metrics | total.metrics(window.start, len(updates)) | figures(updates)

    @property
    def _num_elements(self) -> int:
        """D: elements of one picture's latent."""
        return self._grid_hw[0] * self._grid_hw[1] * self._model.config.latent_channels

    def _losses(self, work: Work, window: Window, ledger: Ledger) -> Iterator[Callable[[], Tensor]]:
        """The micro-batches of one update, text first; each notes in the ledger what it saw."""
        for text in work.texts:
            yield partial(self._noted_text, ledger, text, work.global_count)
        for flow in work.flows:
            yield partial(self._noted_flow, ledger, flow, window, work.global_count)

    def _noted_text(self, ledger: Ledger, work: TextWork, global_count: int) -> Tensor:
        return ledger.text(*self._text(work, global_count))

    def _noted_flow(self, ledger: Ledger, work: FlowWork, window: Window, global_count: int) -> Tensor:
        return ledger.flow(self._flow(work, window, global_count))

    def _text(self, work: TextWork, global_count: int) -> tuple[Tensor, Stats]:
        low, high = self._algorithm.text_clip
        return text_loss(
            token_logp(self._model, work.batch),
            work.old_logp_SN,
            work.batch.mask_SN,
            work.batch.advantage_S,
            weight_S=work.batch.weight_S,
            clip_low=low,
            clip_high=high,
            global_count=global_count,
            kl_weight=self._algorithm.text_kl,
            reference_logp_ST=work.reference_logp_SN,
        )

    def _flow(self, work: FlowWork, window: Window, global_count: int) -> FlowLoss:
        """Detaching the context alone would not stop its gradient: a picture's two markers are the text expert's as well
        (BAGEL.md 8, freeze_und).
        """
        stop = self._algorithm.context_gradient == "stop"
        understanding = [*self._model.text_parameters(), *self._model.vision_parameters()]
        with held(value for _, value in understanding) if stop else nullcontext():
            velocity_SWLC = velocity(self._model, work.batch)
        return flow_loss(
            window.mean(work.batch.x_SWLC, velocity_SWLC),
            work.old_mean_SWLC,
            work.batch.x_next_SWLC,
            window.std_W,
            work.batch.advantage_S,
            weight_S=work.batch.weight_S,
            clip=self._clip,
            ratio_norm=self._algorithm.ratio_norm,
            flow_weight=self._algorithm.flow_weight,
            global_count=global_count,
            velocity_SWLC=None if work.reference_velocity_SWLC is None else velocity_SWLC,
            reference_velocity_SWLC=work.reference_velocity_SWLC,
            mse_weight=self._regulariser_weight(window),
        )

    def _regulariser_weight(self, window: Window) -> float | Tensor:
        """A number for the velocity MSE, [W] for the latent KL; 0 without a regulariser."""
        weight = self.resolved.get("flow/regulariser_weight", 0.0)
        if isinstance(self._algorithm.regulariser, LatentKl):
            scale_W = latent_kl_weight(window.t_W, window.t_next_W, noise_level=window.noise_level)
            return weight * scale_W.to(self._engine.device)
        return weight

    def _term_norms(self, work: Work, window: Window) -> dict[str, float]:
        """Gradient norm of each loss term in each expert, of this rank's first micro-batch, outside the engine.

        ZeRO-3 holds no whole parameter to differentiate by, so there is nothing to report there.
        """
        if self._config.learner.zero_stage == 3:
            return {}
        experts = {"text": self._model.text_parameters(), "generation": self._model.generation_parameters()}
        trained: set[str] = set(self._config.learner.trains)
        groups = {name: experts[name] for name in sorted(trained & experts.keys())}
        terms: dict[str, Tensor] = {}
        if work.texts:
            terms["text"] = self._text(work.texts[0], work.global_count)[0]
        if work.flows:
            flow = self._flow(work.flows[0], window, work.global_count)
            terms |= {"flow": flow.policy, "regulariser": flow.regulariser}
        return {
            f"term_norm/{term}/{name}": norm for term, loss in terms.items() for name, norm in group_norms(loss, groups).items()
        }

    def _advantages(self, mini_batches: Sequence[MiniBatch[Sample]]) -> dict[str, float]:
        values = torch.tensor([sample.advantage for each in mini_batches for sample in each.samples], dtype=torch.float64)
        sums = [len(values), float(values.square().sum()), float((values == 0).sum())]
        count, squares, zeros = self._engine.total(sums)
        return {"advantage/rms": (squares / count) ** 0.5, "advantage/zero": zeros / count}


def _compares_velocities(config: TrainConfig) -> bool:
    return not isinstance(config.algorithm.regulariser, NoRegulariser) and "generation" in config.learner.trains


def _compares_tokens(config: TrainConfig) -> bool:
    return config.algorithm.text_kl > 0 and "text" in config.learner.trains
