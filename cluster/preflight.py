"""What is known of a run before Ray starts: resolved values, files that can be read, prompts that fit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.judge_checks import check_judges
from cluster.panel import require_panel
from cluster.prompt_checks import count_prompts, fitting_prompts
from cluster.prompts import plain_ids
from cluster.resolved import course_lines, size_lines
from cluster.sft_checks import fitting_lines, told
from configs.algorithms import UniGrpo
from configs.load import ConfigError, check_files, model_folder, start_folder, still_to_be_given
from configs.reward import parts_of
from configs.reward_model import RewardModelConfig
from configs.reward_service import RewardServiceConfig
from configs.schema import Config, SftConfig, ShapesPrompts, TrainConfig
from configs.sft import FileData, NewStart
from configs.study import StudyConfig
from configs.verifiers import RandomReward
from rollout_workers.cache import require_cache
from unigrpo.models.bagel.checkpoint import check_folder
from unigrpo.models.bagel.config import BagelConfig
from unigrpo.sft_file import SftLine
from unigrpo.tokenizer import Tokenizer, check_special_tokens, load_tokenizer


def resolved(config: Config) -> Iterator[str]:
    """Lines that say what the config comes to; nothing of the model where its path is still to be given.

    Raises ConfigError for what the model or the prompts rule out.
    """
    if isinstance(config, SftConfig):
        lines = check_sft(config)
        yield f"{config.steps} updates of {config.batch_size} examples with {config.noise_draws} noise draws each"
        if lines:
            yield told(lines, config.steps * config.batch_size)
        return
    if isinstance(config, RewardModelConfig):
        yield f"{config.steps} updates of {config.batch_size} pictures each"
        return
    if isinstance(config, RewardServiceConfig):
        check_files(config)
        check_judges(config)
        judges = ", ".join(f"{name} ({part.kind})" for name, part in parts_of(config.reward).items())
        yield f"{judges}, {config.replicas.least} to {config.replicas.most} replicas each, at {config.host}:{config.port}"
        return
    if isinstance(config, StudyConfig):
        runs = sum(len(config.starts_of(row)) * (len(config.seeds) if row.trains else 1) for row in config.rows.values())
        yield f"{len(config.rows)} rows, {runs} runs of {config.steps} steps each, {len(config.modes)} evaluations after each"
        return
    known = check(config, evaluates=config.evaluation.every is not None)
    yield from course_lines(config)
    if known is None:
        return
    yield from size_lines(config, known.model)
    if known.num_prompts is not None:
        yield f"{known.num_prompts} prompts to train on"


def prepare(config: TrainConfig, *, evaluates: bool) -> Tokenizer:
    """Everything that can end a run before it starts, checked. Raises ConfigError with the first fault."""
    _require_given(still_to_be_given(config))
    known = check(config, evaluates=evaluates)
    assert known is not None, "model.path is given"
    return known.tokenizer


def prepare_sft(config: SftConfig) -> tuple[SftLine, ...]:
    """Everything that can end fine-tuning before it starts, checked; the lines of its data file, none where data is generated.

    Raises ConfigError with the first fault, or the first faults of the data file.
    """
    _require_given(still_to_be_given(config))
    return check_sft(config)


def check_sft(config: SftConfig) -> tuple[SftLine, ...]:
    """As prepare_sft, as far as things are given."""
    check_files(config)
    if isinstance(config.start, NewStart) or config.start.path is None:
        return ()
    model, tokenizer = read_model(start_folder(config), "start.path")
    _require_trainable(config, model, "start.path")
    data = config.data
    if not isinstance(data, FileData) or data.path is None:
        return ()
    return fitting_lines(data, model, tokenizer, config.trains)


def prepare_evaluation(config: TrainConfig) -> Tokenizer:
    """Everything that can end the evaluation of a policy before it starts, checked. Raises ConfigError with the first fault."""
    used = _without_training(config)
    _require_given(still_to_be_given(used))
    check_files(used)
    check_judges(used)
    model, tokenizer = check_model(config)
    fitting_prompts(config, "evaluation.", tokenizer, model)
    return tokenizer


def prepare_judging(config: TrainConfig) -> None:
    """Everything but the pictures that can end their evaluation before it starts, checked. Raises ConfigError."""
    used = _without_training(config)
    painted = used.evaluation.model_copy(update={"prompts": ShapesPrompts(split="held_out")})  # the pictures bring their own
    used = used.model_copy(update={"evaluation": painted})
    _require_given([key for key in still_to_be_given(used) if key != "model.path"])
    check_files(used)
    check_judges(used)


def _without_training(config: TrainConfig) -> TrainConfig:
    """A config that names nothing but what an evaluation needs: neither prompts, objectives nor judges of training's own."""
    unused: dict[str, object] = {
        "prompts": ShapesPrompts(split="train"),
        "algorithm": UniGrpo(),
        "then": None,
        "panel": None,
    }
    if config.evaluation.reward is not None:
        unused["reward"] = RandomReward()
    return config.model_copy(update=unused)


def _require_given(missing: Sequence[str]) -> None:
    if missing:
        raise ConfigError(f"{', '.join(missing)} still to be given; set it in the file or as an override")


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the files say that a config names."""

    model: BagelConfig
    tokenizer: Tokenizer
    num_prompts: int | None
    """To train on; None while something is still to be given."""


def check(config: TrainConfig, *, evaluates: bool) -> Known | None:
    """Every check that what is given allows; None while the model is still to be given. Raises ConfigError."""
    check_files(config)
    check_judges(config)
    if config.model.path is None:
        return None
    model, tokenizer = check_model(config)
    _require_trainable(config, model, "model.path")
    num_prompts = None
    if not still_to_be_given(config):
        num_prompts = count_prompts(config, tokenizer, model, evaluates=evaluates)
        require_panel(config, model)
    return Known(model=model, tokenizer=tokenizer, num_prompts=num_prompts)


def check_model(config: TrainConfig) -> tuple[BagelConfig, Tokenizer]:
    """Sizes and tokenizer of the run's model, which can think and paint what is asked. Raises ConfigError."""
    assert config.model.path is not None, "checked before"
    model, tokenizer = read_model(model_folder(config.model.path), "model.path")
    if config.reasoner.max_model_len > model.max_position_embeddings:
        raise ConfigError(
            f"reasoner.max_model_len is {config.reasoner.max_model_len}, but the model at {config.model.path} has "
            f"{model.max_position_embeddings} positions; lower it"
        )
    try:
        plain_ids(config.model.system_prompt, tokenizer)
    except ValueError as error:
        raise ConfigError(f"model.system_prompt: {error}") from None
    try:
        model.grid_hw(config.sampler.height, config.sampler.width)
    except ValueError as error:
        raise ConfigError(f"sampler.height or sampler.width: {error}") from None
    try:
        require_cache(config, model)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return model, tokenizer


def read_model(folder: Path, key: str) -> tuple[BagelConfig, Tokenizer]:
    """Sizes and tokenizer of the model's folder that `key` names, once its tensors and special tokens are known to be there.

    No tensor is read. Raises ConfigError.
    """
    try:
        model, tokenizer = check_folder(folder), load_tokenizer(folder)
        check_special_tokens(tokenizer, model.special_tokens, model.vocab_size, folder)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None
    return model, tokenizer


def _require_trainable(config: TrainConfig | SftConfig, model: BagelConfig, key: str) -> None:
    if "vision" in config.trains and model.vision is None:
        raise ConfigError(
            f"learner.trains is {list(config.trains)}, but the model of {key} has no vision tower; leave vision "
            f"out, or give {key} of a model that sees"
        )
