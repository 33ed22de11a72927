"""`unigrpo reward fit`: the shapes world's differentiable reward model, and how far it can be trusted."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from cluster.reward_agreement import Trust, measured
from cluster.view import View
from configs.load import ConfigError, dump, model_folder
from configs.reward_model import RewardModelConfig
from unigrpo.models.bagel.checkpoint import Loaded, load_model
from unigrpo.reward_models.shapes import WEIGHTS_FILE, ShapesRewardModel
from unigrpo.reward_models.shapes_pictures import labelled_pictures
from unigrpo.reward_models.shapes_training import ReaderProgress, train_shapes_reward

PAINTER = Path("bundled:shapes")
"""Whose autoencoder spoils training pictures, and who paints those that the result is tried on."""
REPORT_EVERY = 200
"""Updates between lines on the terminal."""
REPORT_PICTURES = 2048
"""Pictures between lines on the terminal; a multiple of what is made at once."""


def run_reward_model(config: RewardModelConfig) -> None:
    """Train, write model, config and agreement.json to `run_dir`, and print the table. Raises ConfigError when it is in use."""
    folder = _new_folder(config)
    torch.set_num_threads(config.num_threads)
    loaded = load_model(model_folder(PAINTER))
    loaded.autoencoder.requires_grad_(False)
    with View(config.steps) as view:
        model = _trained(config, loaded, view)
        model.save(folder)
        view.say("measuring the agreement with the verifier")
        trust = measured(model, loaded, seed=config.seed, num_prompts=config.agreement_prompts)
        summary = {"seed": config.seed, "prompts": config.agreement_prompts, **_rounded(asdict(trust))}
        (folder / "agreement.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print_trust(trust)
    path = folder.resolve()
    print(f"the reward model is in {path}; use it with 'reward={{kind: differentiable, path: {path}}}'")


def _new_folder(config: RewardModelConfig) -> Path:
    if (config.run_dir / WEIGHTS_FILE).exists():
        raise ConfigError(f"run_dir {config.run_dir} holds a reward model already; move it away, or give another run_dir")
    config.run_dir.mkdir(parents=True, exist_ok=True)
    (config.run_dir / "config.yaml").write_text(dump(config), encoding="utf-8")
    return config.run_dir


def _trained(config: RewardModelConfig, loaded: Loaded, view: View) -> ShapesRewardModel:
    view.say("making labelled pictures")
    pictures = labelled_pictures(
        loaded.autoencoder,
        seed=config.seed,
        count=config.pictures,
        report=lambda done: _report_pictures(view, done, config.pictures),
    )
    return train_shapes_reward(
        pictures,
        loaded.autoencoder,
        steps=config.steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        seed=config.seed,
        report=lambda progress: _report_training(view, progress, config.steps),
    )


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested figures to four places: more would only show floating-point order."""
    return {key: _rounded(value) if isinstance(value, Mapping) else round(value, 4) for key, value in values.items()}


def print_trust(trust: Trust) -> None:
    """One row a set of pictures, and a line on what climbing the gradient leads to."""
    table = Table("pictures", "number", "right", "accuracy", "AUC", "strict r", "graded r", "graded rank r")
    for name, each in trust.agreement.items():
        shares = (each.right, each.accuracy, each.auc, each.pearson_strict, each.pearson_graded, each.spearman_graded)
        table.add_row(name, str(each.pictures), *(f"{share:.3f}" for share in shares))
    Console().print(table)
    climb = trust.climb
    print(
        f"of {climb.pictures} wrong pictures that climbed its gradient, it calls {climb.called_right:.3f} right, "
        f"the verifier {climb.right:.3f}"
    )


def _report_pictures(view: View, done: int, total: int) -> None:
    if done % REPORT_PICTURES == 0 or done == total:
        view.say(f"pictures {done}/{total}")


def _report_training(view: View, progress: ReaderProgress, total: int) -> None:
    if progress.step % REPORT_EVERY == 0 or progress.step == total:
        view.say(f"update {progress.step}/{total}  loss {progress.loss:.4f}  cells right {progress.cells_right:.3f}")
