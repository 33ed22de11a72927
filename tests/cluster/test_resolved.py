"""What `unigrpo validate` tells of a config: every preset, and each method's own lines."""

import math
from pathlib import Path

import pytest

from cluster.preflight import resolved
from configs.load import load

SCALE = math.sqrt(262_144 / 144)
"""From D_ref to the shapes world's 3 x 3 tokens of 16 numbers."""


def told(name: str, *overrides: str) -> list[str]:
    return list(resolved(load(Path(f"configs/{name}.yaml"), overrides)))


@pytest.mark.parametrize("path", sorted(Path("configs").rglob("*.yaml")), ids=str)
def test_every_preset_is_valid(path: Path) -> None:
    assert list(resolved(load(path)))


def test_clips_and_weights_are_told_as_they_are_at_this_size() -> None:
    assert told("shapes/unigrpo") == [
        "100 steps of 8 prompts x 8 siblings = 64 samples",
        "unigrpo trains text and generation",
        "2 updates a step on 32 samples each",
        "9 velocity evaluations a painting, 4 of them stochastic and trained",
        "text ratio clipped to 0.8 .. 1.28",
        "evaluations with thinking, unguided",
        "3 x 3 latent tokens of 16 numbers, D = 144",
        f"flow clip {1e-6 * SCALE:.3g} (1e-06 at D = 262144)",
        f"velocity MSE weight {2.4e-5 * SCALE:.3g} (2.4e-05 at D = 262144)",
        "523 prompts to train on",
    ]


@pytest.mark.parametrize(
    ("name", "overrides", "line"),
    [
        ("shapes/text_grpo", [], "9 velocity evaluations a painting, none of them trained"),
        ("shapes/text_grpo", [], "text_grpo trains text"),
        ("shapes/fpo", [], "9 velocity evaluations a painting, and 8 draws of its flow-matching loss trained"),
        ("shapes/fpo", [], "flow ratio clipped to 0.95 .. 1.05"),
        (
            "shapes/uni_fpo",
            ["algorithm.flow_draws=2"],
            "9 velocity evaluations a painting, and 2 draws of its flow-matching loss trained",
        ),
        ("shapes/refl", [], "100 steps of 8 prompts x 8 siblings = 64 samples, without thinking"),
        ("shapes/refl", [], "9 velocity evaluations a painting, one of steps 5 to 8 trained, up the reward model shapes"),
        ("shapes/refl", [], "evaluations without thinking, unguided"),
        ("shapes/refl", ["evaluation.thinks=true"], "evaluations with thinking, unguided"),
        ("shapes/refl", ["algorithm.mini_batches=1"], "1 update a step on 64 samples each"),
        ("ablations/nested_2", [], "100 steps of 8 prompts x 4 thoughts x 2 paintings = 64 paintings"),
        ("ablations/nested_2", [], "2 updates a step on 16 samples each"),
        ("ablations/cfg_training", [], "training guided with text_scale 3 at t in (0, 1]"),
        (
            "ablations/window_per_sample",
            [],
            "9 velocity evaluations a painting, 4 of them stochastic and trained, from a start of each painting's own",
        ),
        ("ablations/regulariser_latent_kl", [], f"latent KL weight {0.022 * SCALE:.3g} (0.022 at D = 262144)"),
        (
            "ablations/regulariser_adaptive",
            [],
            f"velocity MSE weight at first, steered to a drift of 0.15, {2.4e-5 * SCALE:.3g} (2.4e-05 at D = 262144)",
        ),
        (
            "shapes/unigrpo",
            ["evaluation.guidance={text_scale: 4, image_scale: 1.5, interval: [0.4, 1]}"],
            "evaluations with thinking, guided with text_scale 4 and image_scale 1.5 at t in (0.4, 1]",
        ),
    ],
)
def test_what_is_particular_to_a_method_is_told(name: str, overrides: list[str], line: str) -> None:
    assert line in told(name, *overrides)


def test_no_weight_is_told_where_nothing_is_regularised_or_clipped_by_size() -> None:
    assert not any("weight" in line for line in told("ablations/regulariser_none"))
    assert not any("262144" in line for name in ("text_grpo", "fpo", "refl") for line in told(f"shapes/{name}"))


def test_stages_are_told_apart() -> None:
    second = "then={steps: 7, algorithm: {kind: flow_grpo, window: {range: [0, 6], size: 2}}}"
    lines = told("shapes/refl_thinking", "steps=3", second)
    assert lines[0] == "3 + 7 steps of 8 prompts x 8 siblings = 64 samples"
    assert "stage 1: refl trains generation" in lines
    assert "stage 2: flow_grpo trains generation" in lines
    assert "stage 2: 2 updates a step on 64 samples each" in lines
    assert f"stage 2: flow clip {1e-6 * SCALE:.3g} (1e-06 at D = 262144)" in lines


def test_a_study_is_told_by_its_runs(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        "task: study\nname: s\nquestion: which?\nrun_dir: runs/s\nsteps: 5\nseeds: [0, 1]\n"
        "starts: {a: {kind: checkpoint, path: 'bundled:shapes'}, b: {kind: checkpoint, path: 'bundled:shapes'}}\n"
        "modes: {think: []}\n"
        "rows: {start: {config: x.yaml, trains: false}, x: {config: x.yaml, starts: [a, b]}, y: {config: y.yaml}}\n"
    )
    assert list(resolved(load(file))) == ["3 rows, 7 runs of 5 steps each, 1 evaluations after each"]
