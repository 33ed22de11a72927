"""What a panel asks for, measures, and writes down of a run."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from cluster import panel as panel_module, system
from cluster.judging import Tally
from cluster.metrics import Metrics, read_rows
from cluster.panel import Panel, measures, panel_of, panel_prompts, require_panel
from cluster.panel_plot import plot_panel
from cluster.pieces import Sampling
from cluster.pool import Pool
from cluster.rollouts import Group
from cluster.summary import category
from cluster.system import System, rewards_of
from configs.load import QUICKSTART, ConfigError, load
from configs.panel import Thresholds
from configs.schema import TrainConfig
from tests.cluster.fakes import fake_group
from unigrpo.models.bagel.config import BagelConfig
from unigrpo.shapes.prompts import shapes_prompts
from unigrpo.types import Painting, Prompt, Score


def grey_painting(value: int) -> Painting:
    """A picture of 3 x 3 latent tokens, all of one grey level."""
    image_HW3 = torch.full((24, 24, 3), value, dtype=torch.uint8)
    return Painting(image_HW3=image_HW3, latent_LC=torch.empty(9, 16), velocity_rms=1.0, policy_version=0)


def test_without_thoughts_and_a_held_out_verifier_nothing_is_said_of_them() -> None:
    group = replace(fake_group(0, "colors", [1.0, 0.0]), thoughts=())
    assert measures([group], [[grey_painting(0), grey_painting(51)]], None) == {
        "score": 0.5,
        "saturation": 0.5,
        "grid_artefact": 1.0,
        "diversity": pytest.approx(0.2),
        "velocity_rms": 1.0,
    }


def quickstart(*overrides: str) -> TrainConfig:
    config = load(QUICKSTART, overrides)
    assert isinstance(config, TrainConfig)
    return config


def test_prompts_are_of_all_categories_in_turn_and_the_same_every_time() -> None:
    config = quickstart("panel={num_prompts: 16}")
    assert config.panel is not None
    chosen = panel_prompts(config, config.panel)
    tags = [category(prompt) for prompt in chosen]
    assert len(set(tags)) == len({category(prompt) for prompt in shapes_prompts("train")}) == len(set(tags[: len(set(tags))]))
    assert max(map(tags.count, tags)) - min(map(tags.count, tags)) <= 1
    assert chosen == panel_prompts(config.model_copy(update={"seed": 5}), config.panel)
    assert chosen != panel_prompts(config, config.panel.model_copy(update={"seed": 1}))
    assert len(panel_prompts(config, config.panel.model_copy(update={"num_prompts": 10_000}))) == len(shapes_prompts("train"))


def test_a_held_out_verifier_that_cannot_judge_the_prompts_and_a_picture_without_a_grid_are_refused() -> None:
    class FakeModel:
        def grid_hw(self, height: int, width: int) -> tuple[int, int]:
            return height // 8, width // 8

    model = cast(BagelConfig, FakeModel())
    require_panel(quickstart("panel={reward: {kind: differentiable}}"), model)
    require_panel(quickstart("panel=null", "sampler.width=16"), model)
    with pytest.raises(
        ConfigError, match=r"^panel\.reward: a reward of kind ocr cannot judge .*; give a verifier that can, or null"
    ):
        require_panel(quickstart("panel={reward: {kind: ocr}}"), model)
    with pytest.raises(ConfigError, match=r"sampler\.height and width are 24 and 16, fewer than three latent tokens"):
        require_panel(quickstart("panel={}", "sampler.width=16"), model)


def test_the_held_out_verifier_is_a_role_of_its_own() -> None:
    assert "panel.reward" in rewards_of(quickstart("panel={reward: {kind: differentiable}}"))
    assert "panel.reward" not in rewards_of(quickstart("panel={}"))


class FakeJudges:
    """Gives every picture a score; of prompts in `fails`, none."""

    def __init__(self, value: float, fails: Sequence[int] = ()) -> None:
        self._value, self._fails = value, fails
        self.pools: dict[str, Any] = {}

    def judge(self, name: str, prompt: Prompt, paintings: Any, size: int, done: Callable[[Sequence[Score]], None]) -> None:
        if prompt.index not in self._fails:
            done([Score(value=self._value, breakdown={})] * size)


class FakeTally:
    def __init__(self, dropped: int) -> None:
        self.dropped = dropped


class FakeRollouts:
    """Paints every prompt twice, a black and a grey picture, judged 1 and 0; remembers how it was asked."""

    def __init__(self, judges: FakeJudges | None = None, dropped: int = 0) -> None:
        self.judges, self.tally = {"panel": judges}, FakeTally(dropped)
        self.asked: list[Sampling] = []

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Group]:
        self.asked.append(sampling)
        groups = [fake_group(prompt.index, category(prompt), [1.0, 0.0]) for prompt in prompts]
        return groups[self.tally.dropped :]


class FakeView:
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def stages(self, pools: Sequence[Pool], tally: Tally) -> None:
        assert not pools


class FakeTokenizer:
    decode = str


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[System, FakeView]:
    """A system whose panel is of two prompts; its pictures come from no object store, and are neither shown nor plotted."""
    monkeypatch.setattr(
        panel_module, "paintings_of", lambda groups, timeout: [[grey_painting(1), grey_painting(52)] for _ in groups]
    )
    monkeypatch.setattr(system, "write_samples", lambda folder, groups, **_: None)
    monkeypatch.setattr(system, "plot_panel", lambda rows, thresholds, path: path.write_text(f"{len(rows)} panels"))
    config = quickstart(f"run_dir={tmp_path}", "panel={num_prompts: 2, images_per_prompt: 2, reward: {kind: differentiable}}")
    metrics, view, nothing = Metrics(tmp_path), FakeView(), cast(Any, None)
    metrics.resume(0)
    running = System(
        config=config,
        learner=nothing,
        rollouts=nothing,
        prompts=nothing,
        metrics=metrics,
        view=cast(Any, view),
        tokenizer=cast(Any, FakeTokenizer),
        panel=panel_of(config),
    )
    return running, view


def inspected(running: System, step: int, rollouts: FakeRollouts) -> dict[str, Any]:
    replace(running, rollouts=cast(Any, rollouts)).inspect(step)
    return read_rows(running.config.run_dir / "metrics.jsonl")[-1]


def test_later_panels_are_compared_with_the_first_also_after_a_resume(run: tuple[System, FakeView]) -> None:
    running, view = run
    first = inspected(running, 0, FakeRollouts(FakeJudges(0.5)))
    assert (first["kind"], first["step"], first["score"], first["held_out_score"], first["gap"]) == ("panel", 0, 0.5, 0.5, 0)
    assert not any(value for name, value in first.items() if name.startswith("alarm/"))
    inspected(running, 10, FakeRollouts(FakeJudges(0.45)))
    assert len(view.said) == 2
    running.metrics.resume(10)
    row = inspected(running, 10, FakeRollouts(FakeJudges(0.1)))
    assert [row["step"] for row in read_rows(running.config.run_dir / "metrics.jsonl")] == [0, 10]
    assert {name for name, value in row.items() if name.startswith("alarm/") and value} == {"alarm/gap"}
    assert view.said[-1] == (
        "ALARM at step 10: gap 0.4 (training score minus held-out score), up to 0.15 allowed, 0 at the start: look at what "
        "pleases the training reward alone and mend that reward, or keep an earlier checkpoint"
    )
    assert (running.config.run_dir / "panel.png").read_text() == "2 panels"


@pytest.mark.parametrize(
    "rollouts", [FakeRollouts(FakeJudges(0.5), dropped=1), FakeRollouts(FakeJudges(0.5, fails=range(999)))]
)
def test_a_score_that_failed_leaves_no_measures_and_the_next_whole_panel_is_the_first(
    run: tuple[System, FakeView], rollouts: FakeRollouts
) -> None:
    running, view = run
    assert running.panel is not None
    row = inspected(running, 0, rollouts)
    unscored = 1 if rollouts.tally.dropped else 2
    assert {name: value for name, value in row.items() if "/" not in name} == {
        "kind": "panel",
        "step": 0,
        "unscored": unscored,
    } | {"name": running.panel.name}
    assert view.said == [f"panel of step 0, compared with step 0: unscored {unscored}"]
    assert not inspected(running, 10, FakeRollouts(FakeJudges(0.1)))["alarm/gap"]
    assert inspected(running, 20, FakeRollouts(FakeJudges(-0.1)))["alarm/gap"]


def test_another_panel_of_a_resumed_run_is_not_compared_with_the_first_and_other_thresholds_are_no_other_panel(
    run: tuple[System, FakeView],
) -> None:
    running, view = run
    assert running.panel is not None
    inspected(running, 0, FakeRollouts(FakeJudges(0.5)))
    config = running.panel.config
    stricter = replace(running.panel, config=config.model_copy(update={"every": 3, "thresholds": Thresholds(gap=0.01)}))
    assert inspected(replace(running, panel=stricter), 10, FakeRollouts(FakeJudges(0.45)))["alarm/gap"]
    other = replace(running.panel, config=config.model_copy(update={"seed": 1}))
    assert not inspected(replace(running, panel=other), 20, FakeRollouts(FakeJudges(0.1)))["alarm/gap"]
    assert view.said[-1].startswith("panel of step 20, compared with step 20: score 0.5")


def test_a_panel_is_painted_as_in_training_without_its_noise_and_from_seeds_of_its_own(run: tuple[System, FakeView]) -> None:
    running, _ = run
    rollouts = FakeRollouts(FakeJudges(0.5))
    inspected(running, 30, rollouts)
    training, [sampling] = running.sampling(30), rollouts.asked
    assert training.window is not None
    assert training.leaves_trajectories
    assert sampling.windows([0]) is None
    assert sampling.noise_level == 0
    assert (sampling.seed, sampling.step, sampling.group_size, sampling.num_thoughts) == (0, 0, 2, 2)
    assert (sampling.num_points, sampling.temperature, sampling.thinks, sampling.guidance, sampling.judge) == (
        training.num_points,
        training.temperature,
        training.thinks,
        training.guidance,
        "training",
    )
    assert sampling.prompts_per_piece * 2 == training.prompts_per_piece * training.group_size


def test_no_panel_is_made_where_none_is_asked_for() -> None:
    assert panel_of(quickstart("panel=null")) is None
    assert isinstance(panel_of(quickstart("panel={}")), Panel)


def test_a_plot_shows_alarms_and_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **how: drawn.append(self))
    rows: list[dict[str, Any]] = [
        {"step": step, "score": 0.5, "saturation": step / 100, "alarm/saturation": step > 5} for step in (0, 5, 10)
    ]
    plot_panel(rows, Thresholds().model_dump(), tmp_path / "panel.png")
    shown = [axis for axis in drawn[0].axes if axis.get_visible()]
    assert [axis.get_title().split(":")[0] for axis in shown] == ["training score and held-out score", "saturation"]
    curve, crosses, bound = shown[1].lines
    assert np.array_equal(curve.get_xydata(), [[0.0, 0.0], [5.0, 0.05], [10.0, 0.1]])
    assert np.array_equal(crosses.get_xydata(), [[10.0, 0.1]])
    assert np.array_equal(bound.get_ydata(), [0.05, 0.05])
