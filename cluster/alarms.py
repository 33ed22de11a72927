"""From where on a measure of the panel is an alarm: how far it may move from the run's own start, and what to do then.

Pictures of one world are not those of another, so no measure has an absolute bound.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf, isfinite
from typing import Literal

from configs.algorithms import FlowTerm, NoRegulariser, TextTerm
from configs.schema import TrainConfig
from unigrpo.hacking import NGRAM

Moves = Literal["rise", "growth", "fall", "shift"]
"""What a threshold bounds: the difference to the start, the factor of it, the least share of it, or the factor either way."""
Culprit = Literal["reward", "painter", "thinker", "policy"]
"""Where to look for the cause; the policy is painter and thinker both."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """One number of a panel row that may be an alarm."""

    moves: Moves
    culprit: Culprit
    title: str
    """What it is."""


MEASURES: Mapping[str, Measure] = {
    "gap": Measure(moves="rise", culprit="reward", title="training score minus held-out score"),
    "saturation": Measure(moves="rise", culprit="painter", title="share of saturated pixels"),
    "grid_artefact": Measure(moves="growth", culprit="painter", title="gradient at the patch period"),
    "diversity": Measure(moves="fall", culprit="policy", title="distance between pictures of a prompt"),
    "velocity_rms": Measure(moves="shift", culprit="painter", title="root mean square of the velocity"),
    "thought_tokens": Measure(moves="shift", culprit="thinker", title="tokens of a thought"),
    "repetition": Measure(moves="rise", culprit="thinker", title=f"repeated {NGRAM}-grams of a thought"),
}
"""By name in the row and in panel.thresholds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What is no alarm. Example: saturation .01 at the start, threshold .05 -> low -inf, high .06."""

    low: float
    high: float

    def hold(self, value: float) -> bool:
        """Whether the value is no alarm."""
        return self.low <= value <= self.high


def bounds(moves: Moves, *, start: float, threshold: float) -> Bounds:
    """What is no alarm of a measure that was `start` when the run began, and not negative where the bound is a factor."""
    match moves:
        case "rise":
            return Bounds(low=-inf, high=start + threshold)
        case "growth":
            return Bounds(low=-inf, high=start * threshold)
        case "fall":
            return Bounds(low=start * threshold, high=inf)
        case "shift":
            return Bounds(low=start / threshold, high=start * threshold)


def all_bounds(start: Mapping[str, float], thresholds: Mapping[str, float | None]) -> dict[str, Bounds]:
    """Of every measure that was taken and has a threshold."""
    return {
        name: bounds(measure.moves, start=start[name], threshold=threshold)
        for name, measure in MEASURES.items()
        if name in start and (threshold := thresholds[name]) is not None
    }


def alarms(
    now: Mapping[str, float], start: Mapping[str, float], config: TrainConfig, thresholds: Mapping[str, float | None]
) -> tuple[dict[str, bool], list[str]]:
    """`alarm/NAME` for every measure of `now` that has a threshold, and a line for each that is one.

    config is what trained the policy: the line names keys that it has.
    """
    known = {name: allowed for name, allowed in all_bounds(start, thresholds).items() if name in now}
    raised = [name for name, allowed in known.items() if not allowed.hold(now[name])]
    lines = [
        f"{alarm_text(name, now[name], known[name], start=start[name])}: {advice(MEASURES[name].culprit, config)}"
        for name in raised
    ]
    return {f"alarm/{name}": name in raised for name in known}, lines


def alarm_text(name: str, value: float, allowed: Bounds, *, start: float) -> str:
    """What was measured and what is allowed."""
    limits = " ".join(
        f"{side} {limit:.3g}" for side, limit in (("from", allowed.low), ("up to", allowed.high)) if isfinite(limit)
    )
    return f"{name} {value:.3g} ({MEASURES[name].title}), {limits} allowed, {start:.3g} at the start"


def advice(culprit: Culprit, config: TrainConfig) -> str:
    """What to do. Example: the painter of FlowGRPO -> raise algorithm.regulariser.weight, lower
    learner.generation_learning_rate, or keep an earlier checkpoint.
    """
    remedies = ["look at what pleases the training reward alone and mend that reward"] if culprit == "reward" else []
    if culprit in ("painter", "policy"):
        remedies += _calm_painter(config)
    if culprit in ("thinker", "policy"):
        remedies += _calm_thinker(config)
    return ", ".join([*remedies, "or keep an earlier checkpoint"])


def _calm_painter(config: TrainConfig) -> Iterator[str]:
    algorithm = config.algorithm
    if isinstance(algorithm, FlowTerm):
        bare = isinstance(algorithm.regulariser, NoRegulariser)
        yield "give algorithm.regulariser.kind velocity_mse" if bare else "raise algorithm.regulariser.weight"
    if "generation" in algorithm.trains:
        yield "lower learner.generation_learning_rate"


def _calm_thinker(config: TrainConfig) -> Iterator[str]:
    if isinstance(config.algorithm, TextTerm):
        yield "raise algorithm.text_kl"
    if "text" in config.algorithm.trains:
        yield "lower learner.text_learning_rate"
