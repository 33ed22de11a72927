"""What a person sees while a run goes on: each stage's work, and one line a step."""

import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from cluster.judging import Tally
from cluster.metrics import WALL_CLOCK
from cluster.pool import Pool

COLUMNS = {
    "text loss": "loss/text",
    "flow loss": "loss/flow",
    "reward": "reward/mean",
    "text clip": "text/clip_fraction",
    "flow clip": "flow/clip_fraction",
    "mismatch text": "mismatch/text",
    "mismatch flow": "mismatch/flow",
    "dropped": "groups/dropped",
    "asked again": "scores/retried",
    "think s": "seconds/reasoner",
    "paint s": "seconds/denoiser",
    "judge s": "seconds/reward",
    "wait for judges s": "seconds/reward_wait",
    "rollout s": "seconds/rollout",
    "update s": "seconds/update",
    "sync s": "seconds/sync",
}

SILENT_SECONDS = 10.0
"""How long a run whose output is a file says nothing of its stages."""
STAGES = ("rollout", "data", "update", "sync")
"""Stages of the loop, which follow each other; those inside a rollout overlap."""


class View:
    """A live table on a terminal; plain lines where the output is a file or a pipe, or where lines are labelled."""

    def __init__(self, total_steps: int, *, label: str = "") -> None:
        """label: what stands before every line, of a view beside others."""
        self._console, self._label = Console(), f"{label}: " if label else ""
        is_alone = self._console.is_terminal and not label
        self._live = Live(console=self._console, refresh_per_second=4, transient=True) if is_alone else None
        self._total, self._step, self._stage = total_steps, 0, "evaluation"
        self._said_at = time.monotonic()
        self._step_seconds: list[float] = []

    def __enter__(self) -> "View":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """One line that stays."""
        self._said_at = time.monotonic()
        self._console.print(self._label + text, markup=False, highlight=False, soft_wrap=True)

    def stage(self, name: str) -> None:
        """The loop is at this stage now: rollout, update, sync."""
        self._stage = name
        if self._live:
            self._live.update(self._render([], None))

    def stages(self, pools: Sequence[Pool], tally: Tally) -> None:
        """Show what every pool is doing now, and what judges were asked so far; without a terminal, after a silence only."""
        if self._live:
            self._live.update(self._render(pools, tally))
        elif time.monotonic() - self._said_at > SILENT_SECONDS:
            work = ", ".join(f"{pool.role} {len(pool.pending())} working, {len(pool.queue)} waiting" for pool in pools)
            self.say(f"{self._title()}: {work}; scores asked {tally.asked}")

    def step(self, step: int, row: Mapping[str, Any], *, told: bool = True) -> None:
        """A step has ended with these metrics, which are told if `told`, or after a silence."""
        self._step = step
        self._step_seconds.append(sum(row[WALL_CLOCK + stage] for stage in STAGES if WALL_CLOCK + stage in row))
        if not told and time.monotonic() - self._said_at < SILENT_SECONDS:
            return
        cells = [f"{name} {row[key]:.4g}" for name, key in COLUMNS.items() if key in row]
        self.say(f"step {step}/{self._total}  " + "  ".join(cells) + f"  left {self._left()}")

    def _title(self) -> str:
        return f"step {self._step + 1} of {self._total}: {self._stage}" if self._total else self._stage

    def _left(self) -> str:
        seconds = median(self._step_seconds) * (self._total - self._step)
        return f"{int(seconds // 60)}m{int(seconds % 60):02d}s"

    def _render(self, pools: Sequence[Pool], tally: Tally | None) -> Group:
        scores = (
            None
            if tally is None
            else (
                f"scores asked {tally.asked}, again {tally.retried}, from memory {tally.cached}, failed {tally.failed}; "
                f"groups dropped {tally.dropped} of {tally.groups}"
            )
        )
        stages = Table("stage", "working on", "waiting", title=self._title(), caption=scores)
        for pool in pools:
            stages.add_row(pool.role, ", ".join(pool.pending().values()) or "idle", str(len(pool.queue)))
        return Group(stages, ProgressBar(total=self._total, completed=self._step))
