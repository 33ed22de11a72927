"""Whether the reward models whose gradient a run follows can judge what it paints."""

from collections.abc import Sequence

from configs.load import ConfigError, reward_models
from configs.schema import TrainConfig
from unigrpo.reward_models.load import load_reward_model
from unigrpo.types import Prompt


def require_climbable(config: TrainConfig, prompts: Sequence[Prompt]) -> None:
    """Each reward model is loaded once, on the CPU. Raises ConfigError for a folder that holds none, and for the first size of
    painting or prompt that it cannot judge."""
    for key, choice in reward_models(config):
        place = key
        try:
            model = load_reward_model(choice.model, choice.path)
            place = f"{key} cannot judge sampler.height and sampler.width"
            model.require_size(config.sampler.height, config.sampler.width)
            for prompt in prompts:
                place = f"{key} cannot judge prompt {prompt.index + 1} of prompts"
                model.require_prompt(prompt.text)
        except ValueError as error:
            raise ConfigError(f"{place}: {error}") from None
