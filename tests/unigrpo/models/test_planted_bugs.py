"""The parity suite catches what it is there to catch: every bug of planted.py is planted, and its groups, no others, fail.

Errors are measured in float64, as max|difference| / max|golden|.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from tests.unigrpo.models import planted, test_bagel_parity as parity

pytestmark = pytest.mark.slow

PAINTED = {"flow/", "flow_debug/", "cfg/", "traj/", "edit/", "train/", "e2e/"}
"""Groups in which the generation expert speaks."""
READ = PAINTED | {"text/", "und/"}
"""Groups in which the transformer runs."""
TOLERANCE = parity.SINGLE[torch.float64]
ORDER = 0.1
"""Of the table's smallest error: weights and sizes differ from those it was measured with, the order of magnitude does not."""


@pytest.fixture(scope="module")
def setup(golden_folder: Path) -> parity.Setup:
    """Of the velocities one flow time, of the trajectories the most guided: all groups are there, and quick."""
    whole = parity.load_setup(golden_folder, torch.float64)
    flow, trajectories = whole.cases["flow"], whole.cases["traj"]
    t = next(case["t"] for case in flow if case["key"] == whole.cases["flow_debug"]["same_as"])
    kept = {
        "flow": [case for case in flow if case["t"] == t],
        "traj": [max(trajectories, key=lambda case: case.get("cfg_img_scale", 0.0))],
    }
    left_out = [f"{case['key']}/" for case in (*flow, *trajectories) if case not in (*kept["flow"], *kept["traj"])]
    golden = {key: value for key, value in whole.golden.items() if not key.startswith(tuple(left_out))}
    return replace(whole, cases={**whole.cases, **kept}, golden=golden)


@dataclass(frozen=True)
class Bug:
    """A mistake, the groups that must fail, and the table's smallest error in any of them (infinite: not even a shape fits)."""

    plant: planted.Plant
    groups: set[str]
    least: float


BUGS = {
    "understanding paints": Bug(planted.understanding_paints, PAINTED, 8e-1),
    "markers through generation": Bug(planted.markers_through_generation, PAINTED, 2e-1),
    "positions increment": Bug(planted.positions_increment, PAINTED | {"und/"}, 3e-1),
    "pictures causal": Bug(planted.pictures_causal, PAINTED | {"und/"}, 2e-1),
    "noise stays visible": Bug(planted.noise_stays_visible, {"train/"}, 3e-1),
    "no q/k norm": Bug(planted.no_head_norm, READ, 2e-1),
    "kv heads tiled": Bug(planted.heads_tiled, READ, 7e-1),
    "wrong rope theta": Bug(planted.other_rope_base, READ, 2e-1),
    "rms eps": Bug(planted.large_eps, READ, 7e-4),
    "row and column swapped": Bug(
        planted.table_rows(lambda row, column, _, side: column * side + row), PAINTED | {"vit/", "und/"}, 3e-1
    ),
    "dense position ids": Bug(
        planted.table_rows(lambda row, column, width, _: row * width + column), PAINTED | {"vit/", "und/"}, 3e-1
    ),
    "no latent positions": Bug(planted.no_latent_positions, PAINTED, 7e-1),
    "t in thousands": Bug(planted.time_in_thousands, PAINTED | {"time_embed/"}, 3e-1),
    "sine before cosine": Bug(planted.sine_first, PAINTED | {"time_embed/"}, 5e-1),
    "latent patch order": Bug(planted.latent_channels_first, {"vae/", "edit/", "train/", "e2e/"}, 9e-1),
    "tower's patch order": Bug(planted.tower_reads_channels_first, {"vit/", "und/", "edit/", "train/"}, 2e-1),
    "order of cut patches": Bug(planted.patches_cut_channels_first, {"vit/", "und/", "edit/"}, 2e-1),
    "no post-layernorm": Bug(planted.no_last_tower_norm, {"vit/", "und/", "edit/", "train/"}, 2e-1),
    "N evaluations": Bug(planted.as_many_evaluations_as_points, {"traj/", "edit/", "e2e/"}, math.inf),
    "no shift": Bug(planted.no_shift, {"traj/", "edit/", "e2e/"}, 2e-1),
    "sign of v": Bug(planted.steps_along_the_velocity, {"traj/", "edit/", "e2e/"}, 1.0),
    "no renormalisation": Bug(planted.no_renorm, {"cfg/", "traj/", "edit/", "e2e/"}, 4e-1),
    "nothing": Bug(lambda *_: None, set(), 0.0),
}


def error_of(setup: parity.Setup, group: str) -> float:
    """The group's largest error; infinite where the suite's own assertions (shapes, lengths) fail."""
    try:
        errors = [error * parity.SINGLE[setup.dtype] for error in parity.errors_of(setup, group).values()]
    except AssertionError:
        return math.inf
    # Ids and bytes are right or infinitely wrong: where numbers are wrong too, they say how wrong.
    finite = max((error for error in errors if math.isfinite(error)), default=0.0)
    return finite if finite > TOLERANCE else max(errors)


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_fails_its_groups_and_no_others(setup: parity.Setup, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    bug = BUGS[name]
    if name == "kv heads tiled" and setup.config.num_kv_heads in (1, setup.config.num_heads):
        pytest.skip("tiled or repeated: the same heads")
    monkeypatch.setattr(parity, "require_same_layout", lambda *_: None)  # the numbers must tell by themselves
    bug.plant(monkeypatch, setup.model)
    groups = [group for group in parity.GROUPS if group != "vae/" or "vae/" in bug.groups]  # slow, and without a transformer
    errors = {group: error_of(setup, group) for group in groups}
    assert {group for group, error in errors.items() if not error <= TOLERANCE} == bug.groups
    assert min((errors[group] for group in bug.groups), default=0.0) >= ORDER * bug.least
