"""Statistics of a loss, read off tensors whose figures are known."""

import pytest
import torch

from unigrpo.algo.flow_grpo import flow_loss
from unigrpo.algo.stats import Stats
from unigrpo.algo.text_grpo import text_loss

# Shapes: S samples, T tokens, W window steps, L latent tokens, C channels.


def test_text_figures_by_hand() -> None:
    ratio_ST = torch.tensor([[1.0, 1.5, 0.5], [0.5, 1.5, 9.9]], dtype=torch.float64)
    _, stats = text_loss(
        ratio_ST.log(),
        torch.zeros(2, 3),
        torch.tensor([[True, True, True], [True, True, False]]),
        torch.tensor([[1.0], [-1.0]]).expand(2, 3),
        weight_S=torch.ones(2),
        clip_low=0.2,
        clip_high=0.28,
        global_count=2,
        reference_logp_ST=ratio_ST.log(),
    )
    counted = ratio_ST.log().flatten()[:5]
    assert stats.summary() == pytest.approx(
        {
            "clip_low": 1 / 5,  # only .5 of the sample with the negative advantage
            "clip_high": 1 / 5,  # only 1.5 of the sample with the positive one
            "clip_fraction": 2 / 5,
            "log_ratio_mean": float(counted.mean()),
            "log_ratio_std": float(counted.std(correction=0)),
            "log_ratio_max": float(counted.abs().max()),
            "kl": 0.0,
        }
    )


def test_flow_figures_by_hand_over_the_window_and_at_each_step() -> None:
    # One sample, two steps of two elements, std 1 and xi = (1, 1): log r~ = mean of the shift = .3 and -.5.
    old_mean_SWLC = torch.zeros(1, 2, 1, 2)
    mean_SWLC = torch.tensor([[[[0.2, 0.4]], [[-0.5, -0.5]]]])
    velocity_SWLC, reference_SWLC = torch.full((1, 2, 1, 2), 3.0), torch.tensor([[[[2.0, 2.0]], [[3.0, 3.0]]]])
    stats = flow_loss(
        mean_SWLC,
        old_mean_SWLC,
        torch.ones(1, 2, 1, 2),
        torch.ones(2),
        torch.ones(1),
        weight_S=torch.ones(1),
        clip=0.1,
        ratio_norm=True,
        flow_weight=1.0,
        global_count=1,
        velocity_SWLC=velocity_SWLC,
        reference_velocity_SWLC=reference_SWLC,
    ).stats
    assert stats.summary() == pytest.approx(
        {
            "clip_low": 0.0,
            "clip_high": 0.5,
            "clip_fraction": 0.5,
            "log_ratio_mean": -0.1,
            "log_ratio_std": 0.4,
            "log_ratio_max": 0.5,
            "velocity_rms": 3.0,
            "reference_velocity_rms": 6.5**0.5,
            "velocity_shift_rms": 0.5**0.5,
        }
    )
    assert [stats.at(w).summary()["log_ratio_mean"] for w in range(2)] == pytest.approx([0.3, -0.5])
    assert [stats.at(w).summary()["clip_high"] for w in range(2)] == [1.0, 0.0]
    assert [stats.at(w).summary()["velocity_shift_rms"] for w in range(2)] == [1.0, 0.0]


def test_what_has_no_squares_beside_it_is_a_plain_mean_and_squares_alone_are_a_root_mean_square() -> None:
    sums = {"count": torch.tensor(4.0), "hit": torch.tensor(1.0), "score": torch.tensor(8.0)}
    squares = {"score_squared": torch.tensor(52.0), "velocity_squared": torch.tensor(36.0)}
    summary = Stats(sums | squares, {"gap": torch.tensor([0.5, 2.0])}).summary()
    assert summary == {"hit": 0.25, "score_mean": 2.0, "score_std": 3.0, "velocity_rms": 3.0, "gap_max": 2.0}


def test_addition_sums_totals_and_takes_the_larger_maximum() -> None:
    a = Stats({"count": torch.tensor(2.0), "log_ratio": torch.tensor(1.0)}, {"log_ratio": torch.tensor(3.0)})
    b = Stats({"count": torch.tensor(4.0), "log_ratio": torch.tensor(-3.0)}, {"log_ratio": torch.tensor(2.0)})
    both = a + b
    assert {name: float(total) for name, total in both.sums.items()} == {"count": 6.0, "log_ratio": -2.0}
    assert float(both.maxima["log_ratio"]) == 3.0


def test_statistics_of_different_terms_do_not_add() -> None:
    a = Stats({"count": torch.tensor(2.0)}, {})
    b = Stats({"count": torch.tensor(2.0), "kl": torch.tensor(0.0)}, {})
    with pytest.raises(ValueError, match=r"cannot add statistics of \['count'\] and of \['count', 'kl'\]"):
        _ = a + b
