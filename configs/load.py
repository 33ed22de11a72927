"""From a YAML file and `dotted.key=value` overrides to a frozen config, with errors a stranger can act on."""

import difflib
import importlib.util
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from configs.algorithms import Refl
from configs.base import BUNDLED, ConfigError as ConfigError
from configs.files import read
from configs.reward import CombinedReward, Reward
from configs.reward_model import RewardModelConfig
from configs.reward_service import RewardServiceConfig
from configs.schema import Config, FilePrompts, SftConfig, TrainConfig
from configs.sft import CheckpointStart, FileData
from configs.study import StudyConfig
from configs.verifiers import Judge, RewardModelChoice

START_FOLDER = "start"
"""Where in its run_dir a fine-tuning run keeps a model that it made from nothing."""
QUICKSTART = Path(__file__).with_name("quickstart.yaml")
TASKS: dict[str, type[Config]] = {
    "train": TrainConfig,
    "sft": SftConfig,
    "reward_service": RewardServiceConfig,
    "reward_model": RewardModelConfig,
    "study": StudyConfig,
}


def load(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config; relative paths in it start at the current folder, but that of its `base` at the file's own.

    path: a YAML file. overrides: `dotted.key=value`, the value in YAML, applied in order on top of the file.
    Raises ConfigError for a missing or broken file, unknown keys (with the nearest known one) and impossible values.
    """
    return parse(_overridden(read(path), overrides), source=str(path))


def parse(values: dict[str, Any], *, source: str) -> Config:
    """Validate plain values as a config; `source` names them in errors. Raises ConfigError."""
    task = values.setdefault("task", "train")
    if task not in TASKS:
        raise ConfigError(f"{source}: task is {task!r}; allowed are {', '.join(TASKS)}")
    try:
        return TypeAdapter(TASKS[task]).validate_python(values)
    except ValidationError as error:
        lines = [_explain(TASKS[task], detail) for detail in error.errors(include_url=False)]
        raise ConfigError(f"{source}:\n" + "\n".join(f"  {line}" for line in lines)) from None


def dump(config: BaseModel) -> str:
    """The resolved config as YAML that loads to the same config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def model_folder(path: Path) -> Path:
    """The folder a `model.path` means: itself, or for `bundled:NAME` the checkpoint inside this package."""
    name = str(path)
    if not name.startswith(BUNDLED):
        return path
    spec = importlib.util.find_spec("unigrpo")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"model.path is {name}, but the package unigrpo is not installed; run `make setup`")
    return Path(spec.submodule_search_locations[0]) / "bundled" / name.removeprefix(BUNDLED)


def start_folder(config: TrainConfig | SftConfig) -> Path:
    """The checkpoint folder a run starts from, once its path is given; a model made from nothing is kept in the run."""
    if isinstance(config, TrainConfig):
        path = config.model.path
    elif isinstance(config.start, CheckpointStart):
        path = config.start.path
    else:
        path = config.run_dir / START_FOLDER
    assert path is not None, "checked before anything starts"
    return model_folder(path)


def still_to_be_given(config: Config) -> list[str]:
    """Keys a preset leaves open and a run needs."""
    of_scores = [f"{where}.{key}" for where, scorer in _scorers(config) for key in scorer.open_keys()]
    return [*(key for key, path in _own_paths(config) if path is None), *of_scores]


def judges(config: Config) -> Iterator[tuple[str, Judge]]:
    """Every verifier of a config with the key of its section."""
    rewards: dict[str, Reward | None] = {}
    if isinstance(config, TrainConfig):
        rewards = {"reward": config.reward, "evaluation.reward": config.evaluation.reward}
        if config.panel is not None:
            rewards["panel.reward"] = config.panel.reward
    elif isinstance(config, RewardServiceConfig):
        rewards = {"reward": config.reward}
    for where, reward in rewards.items():
        if isinstance(reward, CombinedReward):
            yield from ((f"{where}.parts.{name}", part) for name, part in reward.parts.items())
        elif reward is not None:
            yield where, reward


def reward_models(config: TrainConfig) -> Iterator[tuple[str, RewardModelChoice]]:
    """Every reward model whose gradient a run follows, with the key of its section."""
    for key, algorithm in config.objectives():
        if isinstance(algorithm, Refl):
            yield f"{key}.reward_model", algorithm.reward_model


def check_files(config: Config) -> None:
    """Raise ConfigError for every file the config names that is not there."""
    missing = [f"{key} is {path}, which does not exist" for key, path in _named_files(config) if not path.exists()]
    if missing:
        raise ConfigError("\n".join(missing) + "\ngive a path that exists")


def _named_files(config: Config) -> Iterator[tuple[str, Path]]:
    for where, scorer in _scorers(config):
        yield from ((f"{where}.{key}", path) for key, path in scorer.files().items())
    yield from ((key, model_folder(path)) for key, path in _own_paths(config) if path is not None)


def _scorers(config: Config) -> Iterator[tuple[str, Judge | RewardModelChoice]]:
    """Whatever scores pictures, with the key of its section."""
    yield from judges(config)
    if isinstance(config, TrainConfig):
        yield from reward_models(config)


def _own_paths(config: Config) -> Iterator[tuple[str, Path | None]]:
    """Every path to read that stands outside of what scores pictures, with its key."""
    if isinstance(config, TrainConfig):
        yield "model.path", config.model.path
        for key, prompts in (("prompts.path", config.prompts), ("evaluation.prompts.path", config.evaluation.prompts)):
            if isinstance(prompts, FilePrompts):
                yield key, prompts.path
    if isinstance(config, SftConfig):
        if isinstance(config.start, CheckpointStart):
            yield "start.path", config.start.path
        if isinstance(config.data, FileData):
            yield "data.path", config.data.path


def _overridden(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    for override in overrides:
        key, equals, text = override.partition("=")
        if not (key and equals):
            raise ConfigError(f"override {override!r} is not of the form dotted.key=value")
        *parents, leaf = key.split(".")
        section = values
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise ConfigError(f"override {override!r}: {parent} is a value, not a section")
        try:
            section[leaf] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"override {override!r}: {text!r} is not a YAML value") from None
    return values


def _explain(root: type[BaseModel], detail: ErrorDetails) -> str:
    *section, leaf = detail["loc"] or ("",)
    names, models = _walk(root, section)
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        known = sorted(models[0].model_fields)
        near = difflib.get_close_matches(str(leaf), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return f"{'.'.join([*names, str(leaf)])}: unknown key; {hint}"
    names, models = _walk(root, detail["loc"])
    key = ".".join(names)
    if detail["type"] in ("union_tag_not_found", "union_tag_invalid"):
        kinds = [str(tag) for model in models for tag in _tags(model)]
        asked = detail["input"].get("kind", "") if isinstance(detail["input"], dict) else ""
        near = difflib.get_close_matches(str(asked), kinds, n=1)
        hint = f"did you mean {near[0]}?" if near else f"give one of {', '.join(kinds)}"
        return f"{key}.kind: {hint} (given: {detail['input']!r})"
    given = "" if detail["type"] in ("value_error", "missing") else f" (given: {detail['input']!r})"
    return f"{key}: {message}{given}" if key else message


def _walk(root: type[BaseModel], loc: Sequence[int | str]) -> tuple[list[str], list[type[BaseModel]]]:
    """A pydantic location as the user's own keys, without the tags of unions, and the sections that may stand there."""
    names: list[str] = []
    models, expected = [root], list[str]()
    for part in loc:
        kind = expected.pop(0) if expected else "field"
        if kind == "tag":
            models = [model for model in models if part in _tags(model)]
            continue
        names.append(str(part))
        if kind == "field" and isinstance(part, str) and part in models[0].model_fields:
            annotation = models[0].model_fields[part].annotation
            models = list(_models_in(annotation)) or models
            expected = ["key"] * (typing.get_origin(annotation) is dict) + ["tag"] * (len(models) > 1)
    return names, models


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    kind = model.model_fields.get("kind")
    return typing.get_args(kind.annotation) if kind else ()


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) in (typing.Annotated, typing.Union, types.UnionType, dict):
        for part in typing.get_args(annotation):
            yield from _models_in(part)
