"""From where on a measure of the panel is an alarm: how far it may move from the run's own start, and what to do then.

Pictures of one world are not those of another, so no measure has an absolute bound.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite
from typing import Literal

from unigrpo.hacking import NGRAM

Moves = Literal["rise", "growth", "fall", "shift"]
"""What a threshold bounds: the difference to the start, the factor of it, the least share of it, or the factor either way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """One number of a panel row that may be an alarm."""

    moves: Moves
    title: str
    """What it is."""
    advice: str
    """What to do when it is out of bounds."""


_CALM_PAINTER = "raise algorithm.regulariser.weight or lower learner.generation_learning_rate"
_CALM_THINKER = "raise algorithm.text_kl or lower learner.text_learning_rate"
MEASURES: Mapping[str, Measure] = {
    "gap": Measure(
        moves="rise",
        title="training score minus held-out score",
        advice="look at what pleases the training reward alone and mend that reward, or keep an earlier checkpoint",
    ),
    "saturation": Measure(moves="rise", title="share of saturated pixels", advice=_CALM_PAINTER),
    "grid_artefact": Measure(moves="growth", title="gradient at the patch period", advice=_CALM_PAINTER),
    "diversity": Measure(
        moves="fall",
        title="distance between pictures of a prompt",
        advice="lower the learning rates or keep an earlier checkpoint",
    ),
    "velocity_rms": Measure(moves="shift", title="root mean square of the velocity", advice=_CALM_PAINTER),
    "thought_tokens": Measure(moves="shift", title="tokens of a thought", advice=_CALM_THINKER),
    "repetition": Measure(moves="rise", title=f"repeated {NGRAM}-grams of a thought", advice=_CALM_THINKER),
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
    now: Mapping[str, float], start: Mapping[str, float], thresholds: Mapping[str, float | None]
) -> tuple[dict[str, bool], list[str]]:
    """`alarm/NAME` for every measure of `now` that has a threshold, and a line for each that is one."""
    known = {name: allowed for name, allowed in all_bounds(start, thresholds).items() if name in now}
    raised = [name for name, allowed in known.items() if not allowed.hold(now[name])]
    lines = [alarm_text(name, now[name], known[name], start=start[name]) for name in raised]
    return {f"alarm/{name}": name in raised for name in known}, lines


def alarm_text(name: str, value: float, allowed: Bounds, *, start: float) -> str:
    """One line: what was measured, what is allowed, what to do."""
    limits = " ".join(
        f"{side} {limit:.3g}" for side, limit in (("from", allowed.low), ("up to", allowed.high)) if isfinite(limit)
    )
    measure = MEASURES[name]
    return f"{name} {value:.3g} ({measure.title}), {limits} allowed, {start:.3g} at the start: {measure.advice}"
