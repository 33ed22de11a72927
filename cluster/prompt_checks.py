"""Whether the prompts of a run fit its model and its judges."""

from collections.abc import Sequence
from typing import Literal

from cluster.picture_checks import require_editable
from cluster.prompts import asked, load_prompts, plain_ids, system_spans
from cluster.reward_model_checks import require_climbable
from configs.load import ConfigError
from configs.schema import FilePrompts, Prompts, ShapesPrompts, TrainConfig
from unigrpo.layout import reasoner_prompt_ids
from unigrpo.models.bagel.config import BagelConfig
from unigrpo.tokenizer import Tokenizer
from unigrpo.types import Given, Prompt


def count_prompts(config: TrainConfig, tokenizer: Tokenizer, model: BagelConfig, *, evaluates: bool) -> int:
    """How many prompts the run trains on: enough for a step, and every one fits and can be judged, and climbed where a reward
    model leads; those of evaluations fit and can be judged too.

    Raises ConfigError naming a prompt that does not fit, or how many there are when a step would hold one twice.
    """
    training = fitting_prompts(config, "", tokenizer, model)
    require_climbable(config, training)
    if evaluates or config.evaluation.prompts.kind != "shapes":  # which is what stands there when nobody asks for any
        fitting_prompts(config, "evaluation.", tokenizer, model)
    distinct = len({asked(prompt) for prompt in training})
    if distinct < config.rollout.prompts_per_step:
        match config.prompts:
            case FilePrompts(path=path):
                source = str(path)
            case ShapesPrompts(split=split):
                source = f"the {split} split"
            case _:
                source = "the exam benchmark"
        raise ConfigError(
            f"rollout.prompts_per_step is {config.rollout.prompts_per_step}, but {source} holds {distinct} distinct prompts, "
            "and a step must not hold one twice; lower the first or give more prompts"
        )
    return len(training)


def fitting_prompts(
    config: TrainConfig, section: Literal["", "evaluation."], tokenizer: Tokenizer, model: BagelConfig
) -> Sequence[Prompt]:
    """The prompts of training or of evaluations, every one of which fits, can be painted and judged. Raises ConfigError."""
    source, reward = (config.evaluation.prompts, config.evaluation_reward) if section else (config.prompts, config.reward)
    try:
        prompts = load_prompts(source, reward)
    except ValueError as error:
        way_out = "" if source.kind == "file" else f"; set {section}reward or {section}prompts"
        raise ConfigError(f"{section}prompts: {error}{way_out}") from None
    try:
        require_fitting(prompts, source, config, tokenizer, model)
        if isinstance(source, FilePrompts):
            assert source.path is not None, "checked before"
            require_editable(prompts, source.path, config.sampler, model)
    except ValueError as error:
        raise ConfigError(f"{section}prompts: {error}") from None
    return prompts


def require_fitting(
    prompts: Sequence[Prompt], source: Prompts, config: TrainConfig, tokenizer: Tokenizer, model: BagelConfig
) -> None:
    """Raises ValueError naming the first prompt that leaves no room for its thought, or that the tokenizer cannot say."""
    room = config.reasoner.max_model_len - config.rollout.max_thought_tokens
    system = system_spans(config.model.system_prompt, tokenizer)
    for prompt in prompts:
        place = f"{source.path}:{prompt.index + 1}: " if isinstance(source, FilePrompts) else ""
        try:
            ids = plain_ids(prompt.text, tokenizer)
        except ValueError as error:
            raise ValueError(f"{place}prompt {prompt.text!r}: {error}") from None
        length = len(reasoner_prompt_ids([*system, Given(token_ids=ids)], model))
        if length > room:
            raise ValueError(
                f"{place}prompt {prompt.text!r} has {length} tokens with its system prompt, but reasoner.max_model_len="
                f"{config.reasoner.max_model_len} leaves {room} beside rollout.max_thought_tokens="
                f"{config.rollout.max_thought_tokens}; raise the first, lower the second or shorten the prompt"
            )
