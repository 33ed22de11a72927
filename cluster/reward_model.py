"""`unigrpo reward fit`: the shapes world's differentiable reward model, and how well it agrees with the verifier.

Shapes: N pictures, HW pixels.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from cluster.agreement import Agreement, Numbers, agreement
from cluster.bundled_painter import paint
from cluster.view import View
from configs.load import ConfigError, dump, model_folder
from configs.reward_model import RewardModelConfig
from configs.verifiers import GenevalReward
from reward_server.verifiers.geneval import GenevalVerifier
from unigrpo.models.bagel.checkpoint import Loaded, load_model
from unigrpo.reward_models.base import RewardModel
from unigrpo.reward_models.shapes import WEIGHTS_FILE
from unigrpo.reward_models.shapes_pictures import labelled_pictures, rendered, spoilt, to_uint8_HW3
from unigrpo.reward_models.shapes_training import ReaderProgress, train_shapes_reward
from unigrpo.seeds import derive_seed
from unigrpo.shapes.autoencoder_training import random_scene
from unigrpo.shapes.plan import corrupt_plan, draw_plan
from unigrpo.shapes.prompts import SEEN_KINDS, shapes_prompts
from unigrpo.types import Prompt, Score

PAINTER = Path("bundled:shapes")
"""Whose autoencoder spoils training pictures, and who paints those that the result is tried on."""
PAINTED_PER_PROMPT = 2
AT_ONCE = 100
"""Pictures painted and judged in one call."""
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
        view.say("making labelled pictures")
        model = train_shapes_reward(
            labelled_pictures(
                loaded.autoencoder,
                seed=config.seed,
                count=config.pictures,
                report=lambda done: _report_pictures(view, done, config.pictures),
            ),
            loaded.autoencoder,
            steps=config.steps,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            seed=config.seed,
            report=lambda progress: _report_training(view, progress, config.steps),
        )
        model.save(folder)
        view.say("measuring the agreement with the verifier")
        figures = measured(model, loaded, seed=config.seed, num_prompts=config.agreement_prompts)
        summary = {"seed": config.seed, "prompts": config.agreement_prompts, "agreement": _plain(figures)}
        (folder / "agreement.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print_agreement(figures)
    print(f"the reward model is in {folder}; use it with `reward.kind=differentiable reward.path={folder}`")


def _new_folder(config: RewardModelConfig) -> Path:
    if (config.run_dir / WEIGHTS_FILE).exists():
        raise ConfigError(f"run_dir {config.run_dir} holds a reward model already; move it away, or give another run_dir")
    config.run_dir.mkdir(parents=True, exist_ok=True)
    (config.run_dir / "config.yaml").write_text(dump(config), encoding="utf-8")
    return config.run_dir


def measured(model: RewardModel, loaded: Loaded, *, seed: int, num_prompts: int) -> dict[str, Agreement]:
    """Agreement on pictures of held-out prompts: rendered from right and wrong plans, the same spoilt, and painted."""
    held_out = [prompt for prompt in shapes_prompts("held_out") if prompt.metadata["tag"] not in SEEN_KINDS]
    prompts = [held_out[len(held_out) * index // num_prompts] for index in range(num_prompts)]
    rng = np.random.default_rng(derive_seed(seed, "agreement"))
    right = [draw_plan(prompt.metadata, rng) for prompt in prompts]
    wrong = [corrupt_plan(prompt.metadata, scene, rng) for prompt, scene in zip(prompts, right, strict=True)]
    sound_S3HW = rendered([*right, *wrong], rng)
    others_S3HW = rendered([random_scene(rng) for _ in sound_S3HW], rng)
    spoilt_S3HW = spoilt(sound_S3HW, others_S3HW, loaded.autoencoder, derive_seed(seed, "agreement"))
    painted = prompts * PAINTED_PER_PROMPT
    return {
        "rendered": judged_by_both(model, prompts * 2, _pixels(sound_S3HW)),
        "spoilt": judged_by_both(model, prompts * 2, _pixels(spoilt_S3HW)),
        "painted": judged_by_both(model, painted, _painted(loaded, painted, seed)),
    }


def _pixels(images_S3HW: Tensor) -> list[Tensor]:
    return [torch.from_numpy(to_uint8_HW3(image)) for image in images_S3HW]


def _painted(loaded: Loaded, prompts: Sequence[Prompt], seed: int) -> list[Tensor]:
    images: list[Tensor] = []
    for start in range(0, len(prompts), AT_ONCE):
        texts = [prompt.text for prompt in prompts[start : start + AT_ONCE]]
        images += paint(loaded, texts, [derive_seed(seed, "agreement", start + index) for index in range(len(texts))])
    return images


@torch.no_grad()
def judged_by_both(model: RewardModel, prompts: Sequence[Prompt], images: Sequence[Tensor]) -> Agreement:
    """The model's scores of [24, 24, 3] uint8 pictures against the strict and graded scores of the verifier."""
    scores: list[float] = []
    for start in range(0, len(prompts), AT_ONCE):
        images_S3HW = torch.stack(list(images[start : start + AT_ONCE])).permute(0, 3, 1, 2).float() / 255
        scores += model.score([prompt.text for prompt in prompts[start : start + AT_ONCE]], images_S3HW).tolist()
    verdicts = GenevalVerifier(GenevalReward(detector="shapes")).score(prompts, images)
    return agreement(np.array(scores), _part(verdicts, "strict"), _part(verdicts, "graded"))


def _part(verdicts: Sequence[object], name: str) -> Numbers:
    parts = [verdict.breakdown[name] for verdict in verdicts if isinstance(verdict, Score)]
    assert len(parts) == len(verdicts), "the shapes world's own verifier judges every picture of its size"
    return np.array(parts, dtype=np.float64)


def _plain(figures: Mapping[str, Agreement]) -> dict[str, dict[str, float]]:
    return {name: {key: round(value, 4) for key, value in asdict(each).items()} for name, each in figures.items()}


def print_agreement(figures: Mapping[str, Agreement]) -> None:
    """One row a set of pictures."""
    table = Table("pictures", "number", "right", "accuracy", "AUC", "strict r", "graded r", "graded rank r")
    for name, each in figures.items():
        shares = (each.right, each.accuracy, each.auc, each.pearson_strict, each.pearson_graded, each.spearman_graded)
        table.add_row(name, str(each.pictures), *(f"{share:.3f}" for share in shares))
    Console().print(table)


def _report_pictures(view: View, done: int, total: int) -> None:
    if done % REPORT_PICTURES == 0 or done == total:
        view.say(f"pictures {done}/{total}")


def _report_training(view: View, progress: ReaderProgress, total: int) -> None:
    if progress.step % REPORT_EVERY == 0 or progress.step == total:
        view.say(f"update {progress.step}/{total}  loss {progress.loss:.4f}  cells right {progress.cells_right:.3f}")
