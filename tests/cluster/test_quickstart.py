"""The quickstart's control: a reward that knows nothing teaches nothing, in steps in which the real one gains a quarter."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.faults import Unscored
from cluster.quickstart import require_scored
from cluster.run import scores_of

CONTROL = [
    "reward={kind: random, placement: {num_cpus: 0.25}}",
    "evaluation.reward={kind: geneval, detector: shapes, placement: {num_cpus: 0.25}}",
    "steps=20",
    "evaluation.every=20",
]


def test_an_evaluation_without_means_is_nothing_to_compare() -> None:
    rows = [{"kind": "evaluation", "step": 0, "strict": 0.5}, {"kind": "evaluation", "step": 4, "unscored": 2}]
    before, after = scores_of(rows, 0), scores_of(rows, 4)
    require_scored(before, before, Path("run"))
    with pytest.raises(
        Unscored, match=r"pictures could not be judged after training .*`unigrpo evaluate run` judges the trained"
    ):
        require_scored(before, after, Path("run"))
    with pytest.raises(Unscored, match="before and after"):
        require_scored(after, after, Path("run"))


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_random_reward_hardly_moves_the_strict_score(tmp_path: Path) -> None:
    run_dir = tmp_path / "control"
    command = [sys.executable, "-m", "cluster.cli", "quickstart", f"run_dir={run_dir}", *CONTROL]
    subprocess.run(command, check=True, timeout=1400)
    summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    assert summary["after"]["strict"] - summary["before"]["strict"] < 0.05
    assert summary["pictures"] >= 500
    for picture in ("before_after.png", "curves.png"):
        assert (run_dir / picture).stat().st_size > 1000
