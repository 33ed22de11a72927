"""The verdict on the project's own figure."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from cluster.studies.target import target_line
from tests.cluster.studies.fakes import fake_result, fake_scores, fake_study


@pytest.mark.parametrize(
    ("trained", "until", "verdict"),
    [
        ((0.70, 0.71), 0.55, "**reached**: +.205, .705 [.641, .769] against .500 [.450, .550]†."),
        ((0.695, 0.705), 0.55, "**reached**: +.200,"),
        ((0.69, 0.70), 0.55, "**missed by .005**: +.195,"),
        ((0.70, 0.71), 0.65, "**missed, as they overlap**: +.205,"),
        ((0.70,), 0.55, "**open, as one run has no interval**: +.200, .700 against"),
    ],
)
def test_the_gain_must_be_large_enough_and_the_intervals_apart(
    tmp_path: Path, trained: Sequence[float], until: float, verdict: str
) -> None:
    below = fake_scores(0.5) | {"interval": {"strict": [0.45, until]}}
    results = [fake_result("sft", "sft", None, 0.5, scores={"think": below})]
    results += [fake_result("unigrpo", "sft", seed, score) for seed, score in enumerate(trained)]
    line = target_line(fake_study(tmp_path), results)
    assert line is not None
    assert verdict in line


def test_a_study_that_lacks_one_of_the_rows_has_no_verdict(tmp_path: Path) -> None:
    assert target_line(fake_study(tmp_path), [fake_result("sft", "sft", None, 0.5)]) is None
    other = {"none": {"config": "../shapes/base.yaml"}}
    assert target_line(fake_study(tmp_path, rows=other), [fake_result("none", "sft", 0, 0.5)]) is None
