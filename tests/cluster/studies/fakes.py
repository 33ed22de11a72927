"""Results made by hand, and a study to put them in."""

from pathlib import Path
from typing import Any

from cluster.studies.result import Result
from configs.load import parse
from configs.study import StudyConfig

CONFIGS = Path("configs/studies").absolute()
"""Where the fake study's rows look for their configs."""


def fake_study(run_dir: Path, **changes: Any) -> StudyConfig:
    """Three rows from two starts, in two modes."""
    values = {
        "task": "study",
        "name": "fake",
        "question": "Which is best?",
        "run_dir": str(run_dir),
        "steps": 21,
        "seeds": [0, 1],
        "starts": {
            "sft": {"kind": "checkpoint", "path": "bundled:shapes"},
            "base": {"kind": "checkpoint", "path": "bundled:shapes_base"},
        },
        "modes": {"think": ["evaluation.thinks=true"], "no_think": ["evaluation.thinks=false"]},
        "rows": {
            "sft": {"config": "../shapes/base.yaml", "trains": False, "paper": {"think": 0.82}},
            "text_grpo": {"config": "../shapes/text_grpo.yaml", "paper": {"think": 0.88}},
            "unigrpo": {"config": "../shapes/unigrpo.yaml", "starts": ["sft", "base"], "paper": {"think": 0.90}},
        },
        **changes,
    }
    study = parse(values, source="fake")
    assert isinstance(study, StudyConfig)
    return study


def fake_scores(strict: float, *, counting: float = 0.5, plan: float | None = None) -> dict[str, Any]:
    """What an evaluation says, as far as reports read it."""
    scores = {
        "strict": strict,
        "graded": strict + 0.1,
        "interval": {"strict": [0, 1], "graded": [0, 1]},
        "prompts": 30,
        "pictures": 60,
        "headline": {"score": "strict", "over": "pictures"},
        "category_mean": {"strict": 0.9, "graded": 0.9, "interval": {"strict": [0.8, 1], "graded": [0.8, 1]}},
        "by_category": {
            "counting": {"strict": counting, "graded": counting + 0.125, "seen": False, "interval": {"strict": [0.25, 0.75]}},
            "colors": {"strict": 1.0, "graded": 1.0, "seen": True, "interval": {"strict": None}},
        },
    }
    return scores if plan is None else scores | {"plan_correct": plan, "ground_truth_plan": 0.8}


def fake_result(row: str, start: str, seed: int | None, strict: float | None, **changes: Any) -> Result:
    """A run with this score, and half of it without thinking; None for one that diverged."""
    scores = {} if strict is None else {"think": fake_scores(strict, plan=0.6), "no_think": fake_scores(strict / 2)}
    trained = seed is not None
    values: dict[str, Any] = {
        "row": row,
        "start": start,
        "seed": seed,
        "diverged": "metric loss of step 4 is nan" if strict is None else None,
        "scores": scores,
        "curves": {"reward": [(1, 0.5), (2, 0.6)] if trained else [], "validation": [(0, 0.4), (2, 0.5)] if trained else []},
        "panel": [],
        "compute": {
            "steps": 2 * trained,
            "images": 128 * trained,
            "updates": 4 * trained,
            "evaluation_images": 120,
            "seconds": {"rollout": 10.0, "update": 20.0, "sync": 1.0, "training": 31.0, "modes": 5.0}
            if trained
            else {"modes": 5.0},
        },
        "config": {"algorithm.kind": row},
        "config_hash": "abc",
        "provenance": [
            {
                "versions": {"torch": "2"},
                "commit": "123",
                "host": {"cores": 2, "system": "Linux"},
                "command": "unigrpo reproduce fake",
                "lanes": 2,
                "started": "2026-01-01",
                "began": f"2026-01-0{1 + (seed or 0)}",
                "ended": "2026-01-09",
            }
        ],
    }
    return Result(**{**values, **changes})
