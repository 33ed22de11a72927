"""Fixed prompts with fixed seeds, painted again and again while the policy changes, to see it hack its reward.

Everything is compared with the run's own first panel: what pleases the training reward and not a verifier that training never
asks, and how pictures and thoughts change (unigrpo/hacking.py). Each picture has a thought of its own, and is painted
deterministically with training's own grid and guidance.

Shapes: P prompts, G pictures of a prompt.
"""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from math import isqrt
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from cluster.judging import Judges, Tally
from cluster.metrics import read_rows
from cluster.pieces import Sampling
from cluster.pool import Pool, drive
from cluster.prompts import load_prompts
from cluster.rollouts import Group, Rollouts, paintings_of
from cluster.summary import category
from configs.load import ConfigError
from configs.panel import PanelConfig
from configs.schema import TrainConfig
from unigrpo.hacking import diversity, grid_artefact, repetition, root_mean_square, saturated_share
from unigrpo.models.bagel.config import BagelConfig
from unigrpo.seeds import derive_seed
from unigrpo.types import Painting, Prompt, Score

Watch = Callable[[Sequence[Pool], Tally], None]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """What is painted, and how."""

    config: PanelConfig
    prompts: Sequence[Prompt]
    timeout: float
    """Seconds that one call may take."""

    @property
    def name(self) -> str:
        """The same for panels whose measures are comparable: a run may be resumed with another one."""
        painted = self.config.model_dump_json(exclude={"every", "thresholds"})
        return hashlib.blake2b(painted.encode(), digest_size=6).hexdigest()

    def rows(self, run_dir: Path) -> list[dict[str, Any]]:
        """The rows of this panel in a run, but for those that could not be measured, in order."""
        rows = read_rows(run_dir / "metrics.jsonl")
        return [row for row in rows if row["kind"] == "panel" and row["name"] == self.name and "unscored" not in row]

    def inspect(self, rollouts: Rollouts, training: Sampling, watch: Watch) -> tuple[dict[str, float], list[Group]]:
        """Measures of the weights that are loaded, by name, and what they are of; sampled as `training` is, without its noise.

        Where a score failed, `unscored` says of how many prompts, and there are no measures: they would not be comparable.
        """
        groups = rollouts.generate(self.prompts, self._sampling(training))
        unscored, held_out = rollouts.tally.dropped, None
        if self.config.reward is not None and not unscored:
            held_out = judged_by(rollouts.judges["panel"], groups, timeout=self.timeout, watch=watch)
            unscored = len(groups) - len(held_out)
        if unscored:
            return {"unscored": unscored}, groups
        return measures(groups, paintings_of(groups, timeout=self.timeout), held_out), groups

    def _sampling(self, training: Sampling) -> Sampling:
        images = self.config.images_per_prompt
        return replace(
            training,
            seed=self.config.seed,
            step=0,
            group_size=images,
            images_per_thought=1,
            leaves_trajectories=False,
            window=None,
            prompts_per_piece=max(1, training.prompts_per_piece * training.group_size // images),
        )


def judged_by(judges: Judges, groups: Sequence[Group], *, timeout: float, watch: Watch) -> list[Sequence[Score]]:
    """Scores of painted groups by other judges, in order; those of groups whose score failed are left out."""
    judges.tally = Tally(groups=len(groups))
    scores: dict[int, Sequence[Score]] = {}
    for place, group in enumerate(groups):
        assert group.paintings is not None, "nobody was handed them"
        name = f"panel scores of prompt {group.prompt.index}"
        judges.judge(name, group.prompt, group.paintings, len(group.scores), partial(scores.__setitem__, place))
    pools = list(judges.pools.values())
    drive(pools, timeout=timeout, watch=lambda: watch(pools, judges.tally))
    return [scores[place] for place in sorted(scores)]


def measures(
    groups: Sequence[Group], paintings_PG: Sequence[Sequence[Painting]], held_out_PG: Sequence[Sequence[Score]] | None
) -> dict[str, float]:
    """Every measure of a panel's pictures and thoughts by name; none of thoughts where nothing was thought, no gap without a
    held-out verifier.
    """
    paintings = [painting for paintings_G in paintings_PG for painting in paintings_G]
    thoughts = [thought.token_ids for group in groups for thought in group.thoughts]
    row = {"score": fmean(score.value for group in groups for score in group.scores)}
    if held_out_PG is not None:
        row["held_out_score"] = fmean(score.value for scores in held_out_PG for score in scores)
        row["gap"] = row["score"] - row["held_out_score"]
    row |= {
        "saturation": fmean(saturated_share(painting.image_HW3) for painting in paintings),
        "grid_artefact": fmean(grid_artefact(each.image_HW3, period=patch_pixels(each)) for each in paintings),
        "diversity": fmean(diversity(torch.stack([each.image_HW3 for each in painted])) for painted in paintings_PG),
        "velocity_rms": root_mean_square([painting.velocity_rms for painting in paintings]),
    }
    if thoughts:
        row |= {"thought_tokens": fmean(map(len, thoughts)), "repetition": fmean(map(repetition, thoughts))}
    return row


def patch_pixels(painting: Painting) -> int:
    """Side of the square of pixels that one latent token paints."""
    height, width = painting.image_HW3.shape[:2]
    return isqrt(height * width // len(painting.latent_LC))


def panel_of(config: TrainConfig) -> Panel | None:
    """The panel that a config asks for, if any."""
    if config.panel is None:
        return None
    return Panel(config=config.panel, prompts=panel_prompts(config, config.panel), timeout=config.cluster.call_timeout)


def panel_prompts(config: TrainConfig, panel: PanelConfig) -> list[Prompt]:
    """Training prompts of all categories in turn. Raises ValueError for one that the held-out verifier could not judge."""
    prompts = load_prompts(config.prompts, panel.reward or config.reward)
    shuffled = random.Random(derive_seed(panel.seed, "panel")).sample(prompts, len(prompts))
    by_category: dict[str, list[Prompt]] = {}
    for prompt in shuffled:
        by_category.setdefault(category(prompt), []).append(prompt)
    turns = zip_longest(*(by_category[tag] for tag in sorted(by_category)))
    return [prompt for turn in turns for prompt in turn if prompt is not None][: panel.num_prompts]


def require_panel(config: TrainConfig, model: BagelConfig) -> None:
    """Raises ConfigError where the panel's prompts cannot be judged or its pictures are too small to hold a grid."""
    if config.panel is None:
        return
    try:
        panel_prompts(config, config.panel)
    except ValueError as error:
        raise ConfigError(f"panel.reward: {error}; give a verifier that can, or null for none") from None
    height, width = config.sampler.height, config.sampler.width
    if min(model.grid_hw(height, width)) < 3:
        raise ConfigError(
            f"sampler.height and width are {height} and {width}, fewer than three latent tokens each way, in which the panel "
            "cannot look for a grid; paint larger pictures or leave panel out"
        )
