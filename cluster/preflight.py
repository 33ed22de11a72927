"""What is known of a run before Ray starts: resolved values, files that can be read, prompts that fit."""

from collections.abc import Iterator
from pathlib import Path

import torch

from cluster.prompts import load_prompts
from configs.load import ConfigError, check_files, model_folder, still_to_be_given
from configs.reward import GenevalReward
from configs.schema import Config, SftConfig, TrainConfig, VelocityMse
from unigrpo.algo.flow import rescale_to_elements
from unigrpo.layout import reasoner_prompt_ids
from unigrpo.models.bagel.autoencoder import AutoEncoder
from unigrpo.models.bagel.checkpoint import AUTOENCODER_FILE, VISION_PREFIXES, load_weights
from unigrpo.models.bagel.config import LATENT_TABLE, WEIGHTS_FILE, BagelConfig
from unigrpo.models.bagel.model import Bagel
from unigrpo.tokenizer import Tokenizer, load_tokenizer


def resolved(config: Config) -> Iterator[str]:
    """Lines that say what the config comes to; nothing of the model where its path is still to be given.

    Raises ConfigError for what the model or the prompts rule out.
    """
    if isinstance(config, SftConfig):
        yield f"{config.steps} updates of {config.batch_size} items with {config.noise_draws} noise draws each"
        return
    rollout, sampler, algorithm = config.rollout, config.sampler, config.algorithm
    samples = rollout.prompts_per_step * rollout.group_size
    updates = algorithm.ppo_epochs * algorithm.mini_batches
    yield f"{config.steps} steps of {rollout.prompts_per_step} prompts x {rollout.group_size} siblings = {samples} samples"
    yield f"{updates} updates a step on {samples // algorithm.mini_batches} samples each"
    yield f"{sampler.num_points - 1} velocity evaluations a painting, {sampler.window_size} of them stochastic and trained"
    if config.model.path is None:
        return
    model, tokenizer = read_model(model_folder(config.model.path))
    rows, columns = grid_hw(model, config)
    elements = rows * columns * model.latent_channels
    yield f"{rows} x {columns} latent tokens of {model.latent_channels} numbers, D = {elements}"
    yield f"flow clip {rescale_to_elements(algorithm.flow_clip, elements):.3g} ({algorithm.flow_clip:g} at D = 262144)"
    if isinstance(algorithm.regulariser, VelocityMse):
        weight = algorithm.regulariser.weight
        yield f"velocity MSE weight {rescale_to_elements(weight, elements):.3g} ({weight:g} at D = 262144)"
    if not still_to_be_given(config):
        yield f"{count_prompts(config, tokenizer, model)} prompts to train on"


def prepare(config: TrainConfig, *, evaluates: bool) -> Tokenizer:
    """Everything that can end a run before it starts, checked. Raises ConfigError with the first fault."""
    if evaluates and not isinstance(config.evaluation_reward, GenevalReward):
        raise ConfigError(
            f"evaluations report strict, graded and GenEval scores, but {config.evaluation_reward.kind} would judge them; "
            "set evaluation.reward={kind: geneval, detector: shapes}"
        )
    if missing := still_to_be_given(config):
        raise ConfigError(f"{', '.join(missing)} still to be given; set it in the file or as an override")
    check_files(config)
    assert config.model.path is not None
    model, tokenizer = read_model(model_folder(config.model.path))
    grid_hw(model, config)
    count_prompts(config, tokenizer, model)
    return tokenizer


def read_model(folder: Path) -> tuple[BagelConfig, Tokenizer]:
    """Sizes and tokenizer of a model's folder, once every tensor that the sizes ask for was found there (none is read).

    Raises ConfigError.
    """
    try:
        config = BagelConfig.from_folder(folder)
        with torch.device("meta"):
            model, autoencoder = Bagel(config), AutoEncoder(config.vae)
        load_weights(model, folder / WEIGHTS_FILE, skip=VISION_PREFIXES, optional=(LATENT_TABLE,))
        load_weights(autoencoder, folder / AUTOENCODER_FILE)
        return config, load_tokenizer(folder)
    except ValueError as error:
        raise ConfigError(f"model.path: {error}") from None


def grid_hw(model: BagelConfig, config: TrainConfig) -> tuple[int, int]:
    """Latent token grid of the run's paintings. Raises ConfigError for a size the model cannot paint."""
    try:
        return model.grid_hw(config.sampler.height, config.sampler.width)
    except ValueError as error:
        raise ConfigError(f"sampler.height or sampler.width: {error}") from None


def count_prompts(config: TrainConfig, tokenizer: Tokenizer, model: BagelConfig) -> int:
    """How many prompts the run trains on, every one of which fits. Raises ConfigError naming one that does not."""
    room = config.reasoner.max_model_len - config.rollout.max_thought_tokens
    try:
        system_ids = tokenizer.encode(config.model.system_prompt) if config.model.system_prompt else ()
        training = load_prompts(config.prompts, config.reward)
        prompts = [*training, *load_prompts(config.evaluation.prompts, config.evaluation_reward)]
        for prompt in prompts:
            length = len(reasoner_prompt_ids(system_ids, tokenizer.encode(prompt.text), model))
            if length > room:
                raise ValueError(
                    f"prompt {prompt.text!r} has {length} tokens with its system prompt, but reasoner.max_model_len="
                    f"{config.reasoner.max_model_len} leaves {room} beside rollout.max_thought_tokens="
                    f"{config.rollout.max_thought_tokens}; raise the first, lower the second or shorten the prompt"
                )
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return len(training)
