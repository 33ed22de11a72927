"""Every refusal names what was given and what is the learner's own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from learner.checks import Expected
from tests.learner.tiny import make_config, num_made, sample_step, save_tiny_model
from tests.unigrpo.models.fakes import CONFIG
from tests.unigrpo.models.released import SEEING
from unigrpo.models.bagel.config import AutoEncoderConfig
from unigrpo.types import GivenPicture, Sample, Thought, Trajectory

STEP = 2
SIZES = replace(CONFIG, vae=AutoEncoderConfig(ch=32, ch_mult=(1, 1), num_res_blocks=1, z_channels=4), vision=SEEING.vision)
PICTURE = GivenPicture(latent_LC=torch.zeros(6, 16), grid_hw=(2, 3), seen_HW3=torch.zeros(28, 42, 3, dtype=torch.uint8))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    folder = tmp_path_factory.mktemp("checks")
    [sample] = sample_step(make_config(save_tiny_model(folder / "model"), folder / "run"), STEP, [1.0])
    return sample


@pytest.fixture(scope="module")
def expected() -> Expected:
    config = make_config(Path("unused"), Path("unused"))
    return Expected.of(config, SIZES, STEP)


def test_what_the_denoiser_made_is_accepted(sample: Sample, expected: Expected) -> None:
    expected.check([sample])


def test_rounding_of_the_grid_is_accepted(sample: Sample, expected: Expected) -> None:
    prompt, thought, trajectory = sample.spans
    assert isinstance(trajectory, Trajectory)
    grid_N = trajectory.grid_N.float()
    expected.check([replace(sample, spans=(prompt, thought, replace(trajectory, grid_N=grid_N)))])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_LC": lambda t: t.latent_LC[:2]}, r"shape of latent_LC is \(2, 16\), but the learner's own is \(4, 16\)"),
        ({"cfg_scale": 4.0}, r"CFG scale is 4.0, but the learner's own is 1.0"),
        ({"policy_version": 1}, r"painting's policy version is 1, but the learner's own is 2"),
        ({"start": 4}, r"window start is 4, but the learner's own is \d"),
        ({"grid_hw": (1, 4)}, r"latent grid is \(1, 4\), but the learner's own is \(2, 2\)"),
        ({"grid_N": lambda t: t.grid_N[:-1]}, r"number of time points is 5, but the learner's own is 6"),
        ({"grid_N": lambda t: t.grid_N + 2e-6}, r"time grid at 0 is 1.00000[12]\d*, but the learner's own is 1.0"),
        ({"grid_N": lambda t: t.grid_N * float("nan")}, r"time grid at 0 is nan"),
        ({"sigma_W": lambda t: t.sigma_W * 1.01}, r"noise level at \d is .*, but the learner's own is"),
        ({"sigma_W": lambda t: t.sigma_W[:1]}, r"shape of the noise level is \(1,\), but the learner's own is \(2,\)"),
        ({"x_WLC": lambda t: t.x_WLC[:1]}, r"shape of x_WLC is \(1, 4, 16\), but the learner's own is \(2, 4, 16\)"),
        ({"x_next_WLC": lambda t: t.x_next_WLC[..., :8]}, r"shape of x_next_WLC is \(2, 4, 8\)"),
        ({"x_next_WLC": lambda t: t.x_next_WLC.bfloat16()}, r"dtype of x_next_WLC is torch.bfloat16, .* own is torch.float32"),
        ({"mean_WLC": lambda t: t.mean_WLC * float("inf")}, r"elements of mean_WLC that are not finite is 128, .* own is 0"),
    ],
)
def test_a_foreign_trajectory_is_refused(sample: Sample, expected: Expected, changes: dict[str, Any], message: str) -> None:
    prompt, thought, trajectory = sample.spans
    assert isinstance(trajectory, Trajectory)
    changed = replace(trajectory, **{name: value(trajectory) if callable(value) else value for name, value in changes.items()})
    with pytest.raises(ValueError, match=message):
        expected.check([sample, replace(sample, spans=(prompt, thought, changed))])


def test_a_picture_that_a_denoiser_saw_is_accepted(sample: Sample, expected: Expected) -> None:
    expected.check([replace(sample, spans=(PICTURE, *sample.spans))])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_LC": None}, r"presence of a given picture's latents and patches is \(True, False\)"),
        ({"seen_HW3": None}, r"presence of a given picture's latents and patches is \(False, True\)"),
        ({"latent_LC": torch.full((6, 16), torch.nan)}, r"given latents that are not finite is 96, .* own is 0"),
        ({"latent_LC": torch.zeros(6, 16).bfloat16()}, r"dtype of given latents is torch.bfloat16"),
        ({"latent_LC": torch.zeros(6, 3)}, r"shape of given latents is \(6, 3\), but the learner's own is \(6, 16\)"),
        ({"grid_hw": (3, 3)}, r"shape of given latents is \(6, 16\), but the learner's own is \(9, 16\)"),
        ({"grid_hw": (1, 6)}, r"fit of a given picture's latent grid is False"),
        ({"seen_HW3": torch.zeros(28, 41, 3, dtype=torch.uint8)}, r"width of a given picture \(41 pixels\)"),
        ({"seen_HW3": torch.zeros(56, 28, 3, dtype=torch.uint8)}, r"height of a given picture \(56 pixels\)"),
        ({"seen_HW3": torch.zeros(28, 28, 3)}, r"dtype and channels of a given picture is \(torch.float32, 3\)"),
    ],
)
def test_a_foreign_picture_is_refused(sample: Sample, expected: Expected, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expected.check([replace(sample, spans=(replace(PICTURE, **changes), *sample.spans))])


def test_a_thought_of_another_version_is_refused(sample: Sample, expected: Expected) -> None:
    prompt, thought, trajectory = sample.spans
    assert isinstance(thought, Thought)
    with pytest.raises(ValueError, match="sample 0: the thought's policy version is 7, but the learner's own is 2"):
        expected.check([replace(sample, spans=(prompt, replace(thought, policy_version=7), trajectory))])


def test_a_thought_without_all_its_log_probabilities_is_refused(sample: Sample, expected: Expected) -> None:
    prompt, thought, trajectory = sample.spans
    assert isinstance(thought, Thought)
    with pytest.raises(ValueError, match=r"number of a thought's log-probabilities is 1, but the learner's own is \d"):
        expected.check([replace(sample, spans=(prompt, replace(thought, behavior_logp=(-1.0,)), trajectory))])


@pytest.mark.parametrize("advantage", [float("nan"), float("inf")])
def test_an_advantage_that_is_not_finite_is_refused(sample: Sample, expected: Expected, advantage: float) -> None:
    with pytest.raises(ValueError, match=f"sample 0 has advantage {advantage}, which must be finite"):
        expected.check([replace(sample, advantages=(0.0, advantage))])


@pytest.mark.parametrize(
    ("kind", "changes", "spans", "message"),
    [
        ("unigrpo", {}, (0, 2), "number of thoughts is 0, but the learner's own is 1"),
        ("unigrpo", {}, (0, 1, 1, 2), "number of thoughts is 2, but the learner's own is 1"),
        ("flow_grpo", {"rollout__thinks": False}, (0, 1, 2), "number of thoughts is 1, but the learner's own is 0"),
        ("unigrpo", {}, (0, 1), "number of paintings is 0, but the learner's own is 1"),
        ("text_grpo", {}, (0, 1, 2), "number of paintings is 1, but the learner's own is 0"),
        ("unigrpo", {"rollout__images_per_thought": 2}, (0, 1, 2), "number of paintings is 1, but the learner's own is 2"),
        ("fpo", {}, (0, 1, 2), r"shape of x_WLC is \(2, 4, 16\), but the learner's own is \(0, 4, 16\)"),
        ("unigrpo", {"algorithm__guidance": {"text_scale": 2.0}}, (0, 1, 2), "CFG scale is 1.0, but the learner's own is 2.0"),
    ],
)
def test_a_sample_for_another_objective_is_refused(
    kind: str, changes: dict[str, Any], spans: tuple[int, ...], message: str, sample: Sample
) -> None:
    config = make_config(Path("unused"), Path("unused"), kind, **changes)
    chosen = tuple(sample.spans[place] for place in spans)
    with pytest.raises(ValueError, match=message):
        Expected.of(config, SIZES, STEP).check([replace(sample, spans=chosen, advantages=(0.5,) * num_made(chosen))])


def test_an_advantage_too_few_is_refused(sample: Sample, expected: Expected) -> None:
    with pytest.raises(ValueError, match="number of advantages is 1, but the learner's own is 2"):
        expected.check([replace(sample, advantages=(0.5,))])


def test_a_window_of_its_own_lies_within_the_range(sample: Sample) -> None:
    window = {"range": [1, 4], "size": 2, "placement": "sample"}
    expected = Expected.of(make_config(Path("unused"), Path("unused"), algorithm__window=window), SIZES, STEP)
    prompt, thought, trajectory = sample.spans
    assert isinstance(trajectory, Trajectory)
    for start in (1, 2):
        moved = replace(trajectory, start=start, sigma_W=expected.window.sigma(start))
        expected.check([replace(sample, spans=(prompt, thought, moved))])
    with pytest.raises(ValueError, match="window start is 3, but the learner's own is 1 or 2"):
        expected.check([replace(sample, spans=(prompt, thought, replace(trajectory, start=3)))])
