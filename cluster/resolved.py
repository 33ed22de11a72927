"""What a training config comes to, in lines for people: the course of a step, and the numbers that hang on the model's size."""

from collections.abc import Iterator

from configs.algorithms import (
    AdaptiveVelocityMse,
    Algorithm,
    FlowTerm,
    FpoTerm,
    LatentKl,
    Refl,
    TextGrpo,
    TextTerm,
    VelocityMse,
)
from configs.guidance import Guidance
from configs.schema import TrainConfig
from unigrpo.algo.flow import D_REF, rescale_to_elements
from unigrpo.models.bagel.config import BagelConfig


def course_lines(config: TrainConfig) -> Iterator[str]:
    """What a step rolls out and each stage makes of it, and how evaluations paint."""
    rollout = config.rollout
    samples = rollout.prompts_per_step * config.num_thoughts
    siblings = f"{config.num_thoughts} siblings = {samples} samples" + ("" if rollout.thinks else ", without thinking")
    if rollout.images_per_thought > 1:
        paintings = samples * rollout.images_per_thought
        siblings = f"{config.num_thoughts} thoughts x {rollout.images_per_thought} paintings = {paintings} paintings"
    steps = str(config.steps) if config.then is None else f"{config.steps} + {config.then.steps}"
    yield f"{steps} steps of {rollout.prompts_per_step} prompts x {siblings}"
    for stage, (_, algorithm) in enumerate(config.objectives(), start=1):
        lines = _stage_lines(algorithm, samples, config.sampler.num_points - 1)
        yield from (f"{_stage(config, stage)}{line}" for line in lines)
    thinking = "with" if config.evaluation_thinks else "without"
    yield f"evaluations {thinking} thinking, {_guided(config.evaluation.guidance)}"


def size_lines(config: TrainConfig, model: BagelConfig) -> Iterator[str]:
    """D, and every clip and weight that is stated at D_REF elements, as it is at this D."""
    rows, columns = model.grid_hw(config.sampler.height, config.sampler.width)
    elements = rows * columns * model.latent_channels
    yield f"{rows} x {columns} latent tokens of {model.latent_channels} numbers, D = {elements}"
    for stage, (_, algorithm) in enumerate(config.objectives(), start=1):
        if isinstance(algorithm, FlowTerm):
            yield from (f"{_stage(config, stage)}{line}" for line in _resolved_lines(algorithm, elements))


def _stage(config: TrainConfig, number: int) -> str:
    return "" if config.then is None else f"stage {number}: "


def _stage_lines(algorithm: Algorithm, samples: int, evaluations: int) -> Iterator[str]:
    yield f"{algorithm.kind} trains {' and '.join(algorithm.trains)}"
    updates = f"{algorithm.updates} updates" if algorithm.updates > 1 else "1 update"
    yield f"{updates} a step on {samples // algorithm.mini_batches} samples each"
    yield f"{evaluations} velocity evaluations a painting, {_learned(algorithm)}"
    if isinstance(algorithm, FlowTerm) and algorithm.guidance is not None:
        yield f"training {_guided(algorithm.guidance)}"
    if isinstance(algorithm, TextTerm):
        low, high = algorithm.text_clip
        yield f"text ratio clipped to {1 - low:g} .. {1 + high:g}"
    if isinstance(algorithm, FpoTerm):
        yield f"flow ratio clipped to {1 - algorithm.flow_clip:g} .. {1 + algorithm.flow_clip:g}"


def _learned(algorithm: Algorithm) -> str:
    """What of a painting an objective learns from."""
    match algorithm:
        case TextGrpo():
            return "none of them trained"
        case Refl(late_steps=(lo, hi)):
            return f"one of steps {lo} to {hi - 1} trained, up the reward model {algorithm.reward_model.model}"
        case FpoTerm():
            return f"and {algorithm.flow_draws} draws of its flow-matching loss trained"
        case FlowTerm():
            shared = "" if algorithm.window.placement == "step" else ", from a start of each painting's own"
            return f"{algorithm.window.size} of them stochastic and trained{shared}"


def _guided(guidance: Guidance | None) -> str:
    if guidance is None:
        return "unguided"
    images = f" and image_scale {guidance.image_scale:g}" if guidance.image_scale > 1 else ""
    lo, hi = guidance.interval
    return f"guided with text_scale {guidance.text_scale:g}{images} at t in ({lo:g}, {hi:g}]"


def _resolved_lines(algorithm: FlowTerm, elements: int) -> Iterator[str]:
    stated = {"flow clip": algorithm.flow_clip}
    match algorithm.regulariser:
        case VelocityMse(weight=weight):
            stated["velocity MSE weight"] = weight
        case AdaptiveVelocityMse(weight=weight, target=target):
            stated[f"velocity MSE weight at first, steered to a drift of {target:g},"] = weight
        case LatentKl(weight=weight):
            stated["latent KL weight"] = weight
    for name, value in stated.items():
        yield f"{name} {rescale_to_elements(value, elements):.3g} ({value:g} at D = {D_REF})"
