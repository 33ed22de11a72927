"""`unigrpo quickstart`: the bundled model before and after a few minutes of UniGRPO, with pictures."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from cluster.faults import Unscored
from cluster.metrics import read_rows
from cluster.report import plot_curves, print_scores
from cluster.run import run_training, scores_of
from cluster.summary import headline, numbers, scoring
from configs.load import QUICKSTART, ConfigError, load
from configs.schema import TrainConfig
from unigrpo.gallery import side_by_side
from unigrpo.types import Score

VERDICTS = {1.0: "right", 0.0: "wrong"}
"""Of a strict score, below each picture; other scores are given as they are."""


def run_quickstart(overrides: Sequence[str]) -> None:
    """Train configs/quickstart.yaml afresh and write summary.json, before_after.png and curves.png into its run folder."""
    config = load(QUICKSTART, overrides)
    if not isinstance(config, TrainConfig) or config.evaluation.every is None:
        raise ConfigError(
            "the quickstart trains and evaluates before and after; leave task=train and evaluation.every a number"
        )
    _move_aside(config.run_dir)
    run_training(config)
    rows = read_rows(config.run_dir / "metrics.jsonl")
    before, after = scores_of(rows, 0), scores_of(rows, config.steps)
    require_scored(before, after, config.run_dir)
    summary = {
        "before": before,
        "after": after,
        "prompts": after["prompts"],
        "pictures": after["pictures"],
        "steps": config.steps,
        "seed": config.seed,
    }
    plot_curves(rows, config.run_dir / "curves.png")
    _before_and_after(config, after["headline"]["score"])
    summary["seconds"] = time.time() - psutil.Process().create_time()
    (config.run_dir / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print_scores({"before": before, "after": after})
    score = after["headline"]["score"]
    print(f"{score} {headline(before):.3f} -> {headline(after):.3f} in {summary['seconds'] / 60:.1f} minutes")
    print(f"pictures: {config.run_dir}/before_after.png   curves: {config.run_dir}/curves.png   run folder: {config.run_dir}")


def require_scored(before: Mapping[str, Any], after: Mapping[str, Any], run_dir: Path) -> None:
    """Raises Unscored where an evaluation has no means to compare."""
    if lacking := [name for name, scores in (("before", before), ("after", after)) if "unscored" in scores]:
        raise Unscored(
            f"there is nothing to compare: pictures could not be judged {' and '.join(lacking)} training (the lines above say "
            f"why); `unigrpo evaluate {run_dir}` judges the trained policy, or run the quickstart again"
        )


def _before_and_after(config: TrainConfig, score: str) -> None:
    columns = {}
    for title, step in (("before", 0), ("after", config.steps)):
        folder = config.run_dir / "samples" / f"evaluation-{step:06d}"
        rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
        columns[title] = [
            (Image.open(folder / row["image"]), [row["prompt"], row["thought"], _verdict(config, score, row)]) for row in rows
        ]
    side_by_side(columns).save(config.run_dir / "before_after.png")


def _verdict(config: TrainConfig, score: str, row: Mapping[str, Any]) -> str:
    given = Score(value=row["reward"], breakdown=row["breakdown"])
    value = numbers(given, scoring(config.evaluation_reward).value)[score]
    return VERDICTS[value] if score == "strict" else f"{score} {value:.2f}"


def _move_aside(run_dir: Path) -> None:
    if run_dir.exists():
        number = 1
        while (aside := run_dir.with_name(f"{run_dir.name}-{number}")).exists():
            number += 1
        run_dir.rename(aside)
        print(f"the previous run was moved to {aside}")
