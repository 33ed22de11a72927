"""What the presets say: that they load, hold nothing twice, and are the paper's where they say so."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.algorithms import (
    AdaptiveVelocityMse,
    FlowGrpo,
    Fpo,
    LatentKl,
    NoRegulariser,
    Refl,
    TextGrpo,
    UniFpo,
    UniGrpo,
    VelocityMse,
    Window,
)
from configs.files import BASE, read
from configs.guidance import Guidance
from configs.load import dump, load, parse, still_to_be_given
from configs.panel import judges_alike
from configs.schema import TrainConfig
from configs.verifiers import RandomReward
from unigrpo.algo.flow import latent_kl_weight, time_grid

PRESETS = sorted(Path("configs").rglob("*.yaml"))
OPEN = ["model.path", "prompts.path", "evaluation.prompts.path", "reward.detector_path", "reward.clip_path"]
"""What a preset of BAGEL leaves to be given."""


def preset(name: str, *overrides: str) -> TrainConfig:
    config = load(Path(f"configs/{name}.yaml"), overrides)
    assert isinstance(config, TrainConfig)
    return config


@pytest.mark.parametrize("path", PRESETS, ids=str)
def test_every_preset_loads_and_survives_a_round_trip(path: Path) -> None:
    config = load(path)
    assert parse(yaml.safe_load(dump(config)), source="dump") == config


def repeated(own: dict[str, Any], base: dict[str, Any]) -> Iterator[str]:
    """Keys that `own` sets to what `base` says already; a section of another kind keeps nothing, and may say all again."""
    for key, value in own.items():
        below = base.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            if value.get("kind", below.get("kind")) == below.get("kind"):
                yield from (f"{key}.{each}" for each in repeated(value, below))
        elif key in base and value == below:
            yield key


@pytest.mark.parametrize("path", PRESETS, ids=str)
def test_no_preset_says_what_its_base_says(path: Path) -> None:
    own = yaml.safe_load(path.read_text(encoding="utf-8"))
    base = own.pop(BASE, None)
    assert base is None or list(repeated(own, read(path.parent / base))) == []


def test_every_preset_has_a_run_folder_of_its_own() -> None:
    folders = [config.run_dir for path in PRESETS if hasattr(config := load(path), "run_dir")]
    assert len(set(folders)) == len(folders)


def differences(one: Any, other: Any, key: str = "") -> dict[str, Any]:
    """Where two dumps differ: dotted keys and the values of the first."""
    if isinstance(one, dict) and isinstance(other, dict) and one.get("kind") == other.get("kind"):
        found: dict[str, Any] = {}
        for name in one.keys() | other.keys():
            found |= differences(one.get(name), other.get(name), f"{key}.{name}" if key else name)
        return found
    return {} if one == other else {key: one}


METHODS = {
    "unigrpo": UniGrpo,
    "flow_grpo": FlowGrpo,
    "flow_grpo_no_thinking": FlowGrpo,
    "text_grpo": TextGrpo,
    "fpo": Fpo,
    "fpo_no_thinking": Fpo,
    "uni_fpo": UniFpo,
    "refl": Refl,
    "refl_thinking": Refl,
    "refl_text_grpo": Refl,
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_preset_for_the_shapes_world_and_one_for_bagel(name: str) -> None:
    for folder in ("shapes", "paper"):
        config = preset(f"{folder}/{name}")
        assert type(config.algorithm) is METHODS[name]
        assert config.rollout.thinks == config.evaluation_thinks == (name != "refl" and "no_thinking" not in name)
        assert (type(config.then.algorithm) if config.then else None) is (TextGrpo if name == "refl_text_grpo" else None)
        of_refl = ["algorithm.reward_model.path"] if isinstance(config.algorithm, Refl) else []
        assert still_to_be_given(config) == ([] if folder == "shapes" else OPEN + of_refl)


def test_methods_of_the_shapes_world_have_the_rates_that_were_best_on_tuning_prompts() -> None:
    """docs/results/rates: rows NAME_RATE and NAME_TEXTRATE_GENERATIONRATE, 1e4 for 1e-4."""
    best: dict[str, tuple[float, list[str]]] = {}
    for path in Path("docs/results/rates").glob("*_*/*/result.json"):
        method, rates = re.fullmatch(r"([a-z_]+?)((?:_\de\d)+)", path.parts[-3]).groups()  # type: ignore[union-attr]
        score = json.loads(path.read_text())["scores"]["think"]["strict"]
        best[method] = max(best.get(method, (0.0, [])), (score, rates.strip("_").split("_")))
    assert best.keys() == {"text_grpo", "flow_grpo", "fpo", "refl_thinking", "refl_text_grpo", "unigrpo", "uni_fpo"}
    for method, (_, rates) in best.items():
        config = preset(f"shapes/{method}")
        trained = {group for _, algorithm in config.objectives() for group in algorithm.trains}
        groups = [group for group in ("text", "generation") if group in trained]
        chosen = [getattr(config.learner, f"{group}_learning_rate") for group in groups]
        assert chosen == [float(rate.replace("e", "e-")) for rate in rates], method


def test_methods_of_the_shapes_world_differ_in_the_method_alone() -> None:
    apart = {"algorithm", "then", "steps", "run_dir", "learner", "rollout"}
    base, *others = (preset(f"shapes/{name}") for name in METHODS)
    for other in others:
        if isinstance(other.algorithm, Refl) and other.then is None:
            assert judges_alike(other.evaluation_reward, base.evaluation_reward)
            assert other.panel is not None
            assert base.panel is not None
            assert other.panel.reward is not None
            assert base.panel.reward is not None
            assert judges_alike(other.panel.reward, base.reward)  # what is climbed is held against what others learn from
            assert judges_alike(other.reward, base.panel.reward)
            other = other.model_copy(update={name: getattr(base, name) for name in ("reward", "evaluation", "panel")})
        if other.then is not None:
            other = other.model_copy(update={"panel": base.panel})  # of neither what one stage climbs nor what the other learns
        assert other.model_dump(exclude=apart) == base.model_dump(exclude=apart)
        assert other.steps + (other.then.steps if other.then else 0) == base.steps
        assert other.rollout.model_copy(update={"thinks": True}) == base.rollout
        assert {algorithm.updates for _, algorithm in other.objectives()} == {base.algorithm.updates} == {2}
    flow = preset("shapes/flow_grpo").algorithm
    assert isinstance(flow, FlowGrpo)
    assert isinstance(base.algorithm, UniGrpo)
    assert {key: getattr(base.algorithm, key) for key in FlowGrpo.model_fields if key != "kind"} == {
        key: value for key, value in vars(flow).items() if key != "kind"
    }


def test_two_systems_of_the_shapes_world_share_two_cores() -> None:
    for name in METHODS:
        config = preset(f"shapes/{name}")
        asked = [role.placement.num_cpus for role in (config.reasoner, config.denoiser, config.learner, config.reward)]  # type: ignore[union-attr]
        assert sum(asked) < 1


def test_refl_takes_the_last_four_steps_of_the_shapes_world() -> None:
    config = preset("shapes/refl_thinking")
    assert config.algorithm.window == Window(range=(5, 9), size=1, noise_level=0)
    assert config.sampler.num_points - 1 == 9


@pytest.mark.parametrize("path", [path for path in PRESETS if path.stem.endswith(("random", "random_reward"))], ids=str)
def test_a_control_knows_nothing_and_is_evaluated_as_what_it_controls(path: Path) -> None:
    of_method = {"random_reward": "unigrpo"}.get(path.stem, path.stem.removesuffix("_random"))
    control, method = load(path), load(path.with_stem(of_method))
    assert isinstance(control, TrainConfig)
    assert isinstance(method, TrainConfig)
    assert isinstance(control.reward, RandomReward)
    assert control.evaluation_reward == method.reward
    assert differences(control.model_dump(), method.model_dump()).keys() == {"reward", "run_dir", "evaluation.reward"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cfg_training", {"algorithm.guidance": Guidance(text_scale=3.0, interval=(0, 1)).model_dump()}),
        ("regulariser_none", {"algorithm.regulariser": NoRegulariser().model_dump()}),
        ("regulariser_latent_kl", {"algorithm.regulariser": LatentKl(weight=0.022).model_dump()}),
        (
            "regulariser_adaptive",
            {"algorithm.regulariser": AdaptiveVelocityMse(weight=2.4e-5, target=0.15, rate=0.3).model_dump()},
        ),
        ("regulariser_velocity_mse_strong", {"algorithm.regulariser.weight": 8 * 2.4e-5}),
        ("ratio_norm_off", {"algorithm.ratio_norm": False}),
        ("window_2", {"algorithm.window.size": 2}),
        ("window_6", {"algorithm.window.size": 6}),
        ("window_per_sample", {"algorithm.window.placement": "sample"}),
        ("context_gradient_stop", {"algorithm.context_gradient": "stop"}),
        ("two_epochs", {"algorithm.ppo_epochs": 2, "algorithm.mini_batches": 1}),
        ("group_size_4", {"rollout.prompts_per_step": 16, "rollout.group_size": 4, "rollout.prompts_per_piece": 8}),
        ("group_size_16", {"rollout.prompts_per_step": 4, "rollout.group_size": 16, "rollout.prompts_per_piece": 2}),
        ("nested_2", {"rollout.images_per_thought": 2}),
        ("nested_4", {"rollout.images_per_thought": 4}),
    ],
)
def test_an_ablation_differs_from_unigrpo_in_one_thing_at_equal_paintings_and_updates(
    name: str, expected: dict[str, Any]
) -> None:
    ablation, base = preset(f"ablations/{name}"), preset("shapes/unigrpo")
    run_dir = {"run_dir": ablation.run_dir}
    assert differences(ablation.model_dump(), base.model_dump()) == expected | run_dir
    for each in (ablation, base):
        assert each.rollout.prompts_per_step * each.rollout.group_size == 64
        assert each.rollout.prompts_per_piece * each.rollout.group_size == 32
        assert each.algorithm.updates == 2


def test_the_latent_kl_is_as_strong_as_the_velocity_mse_on_average() -> None:
    kl, mse = preset("ablations/regulariser_latent_kl"), preset("shapes/unigrpo").algorithm
    assert isinstance(kl.algorithm, UniGrpo)
    assert isinstance(kl.algorithm.regulariser, LatentKl)
    assert isinstance(mse, UniGrpo)
    assert isinstance(mse.regulariser, VelocityMse)
    (lo, hi), size = kl.algorithm.window.range, kl.algorithm.window.size
    grid_N = time_grid(kl.sampler.num_points, kl.sampler.shift)
    weight_W = latent_kl_weight(grid_N[lo:hi], grid_N[lo + 1 : hi + 1], noise_level=kl.algorithm.window.noise_level)
    starts = hi - lo - size + 1
    mean = sum(float(weight_W[start : start + size].mean()) for start in range(starts)) / starts
    assert kl.algorithm.regulariser.weight * mean == pytest.approx(mse.regulariser.weight, rel=0.02)


def test_the_1024_preset_holds_table_3() -> None:
    config = preset("bagel_1024")
    sampler, algorithm, learner = config.sampler, config.algorithm, config.learner
    assert isinstance(algorithm, UniGrpo)
    assert (sampler.num_points, sampler.shift, sampler.height, sampler.width) == (25, 3.0, 1024, 1024)
    assert algorithm.window == Window(range=(0, 5), size=3, noise_level=0.8, placement="step")
    assert (config.rollout.prompts_per_step, config.rollout.group_size) == (32, 24)
    assert (algorithm.ppo_epochs, algorithm.mini_batches, algorithm.flow_weight) == (2, 1, 1.0)
    assert (algorithm.text_kl, algorithm.flow_clip, algorithm.regulariser) == (0.0, 1e-6, VelocityMse(weight=1.5e-5))
    assert (algorithm.text_clip, algorithm.context_gradient, algorithm.guidance) == ((0.20, 0.28), "full", None)
    assert (learner.text_learning_rate, learner.generation_learning_rate) == (1e-6, 3e-5)
    assert config.evaluation.num_points == 50
    assert algorithm == UniGrpo()


def test_rows_of_the_papers_tables_are_table_3_but_for_the_method() -> None:
    table_3 = preset("bagel_1024").model_dump(exclude={"run_dir", "algorithm", "then"})
    for path in sorted(Path("configs/paper").glob("*.yaml")):
        row = preset(f"paper/{path.stem}")
        thinks = {"rollout.thinks", "evaluation.thinks"}
        assert differences(row.model_dump(exclude={"run_dir", "algorithm", "then"}), table_3).keys() <= thinks
        assert row.evaluation_thinks == (path.stem != "refl" and "no_thinking" not in path.stem)
        for _, algorithm in row.objectives():
            defaults = type(algorithm)().model_dump(exclude={"reward_model"})
            assert algorithm.model_dump(exclude={"reward_model"}) == defaults


def test_what_bagels_preset_leaves_open_is_listed() -> None:
    assert still_to_be_given(preset("bagel_1024")) == OPEN


def test_the_512_preset_is_the_1024_one_on_fewer_gpus() -> None:
    small, large = preset("bagel_512"), preset("bagel_1024")
    assert small.algorithm == large.algorithm
    assert small.evaluation == large.evaluation
    assert small.sampler == large.sampler.model_copy(update={"height": 512, "width": 512})
    gpus = {
        each: role.placement.num_gpus * role.num_workers for each, role in vars(small).items() if hasattr(role, "num_workers")
    }
    assert sum(gpus.values()) + small.learner.num_ranks == 16
