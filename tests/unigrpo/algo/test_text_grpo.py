"""GRPO on thoughts, against equation 2 written out token by token; the method's invariants; what never changes it."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from unigrpo.algo.advantage import group_advantages
from unigrpo.algo.stats import Stats
from unigrpo.algo.text_grpo import text_loss

# Shapes: S samples, T tokens.

S, T = 6, 7


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def text_batch(off_policy: float = 0.2) -> dict[str, Tensor]:
    old_logp_ST = -random(S, T, seed=0).abs()
    lengths_S = torch.tensor([7, 3, 1, 5, 7, 2])
    return {
        "logp_ST": old_logp_ST + off_policy * random(S, T, seed=1),
        "old_logp_ST": old_logp_ST,
        "mask_ST": torch.arange(T) < lengths_S[:, None],
        "advantage_ST": random(S, T, seed=2),
        "weight_S": torch.ones(S),
        "reference_logp_ST": old_logp_ST + 0.3 * random(S, T, seed=3),
    }


def text(batch: dict[str, Tensor], **options: Any) -> tuple[Tensor, Stats]:
    return text_loss(**batch, **{"clip_low": 0.2, "clip_high": 0.28, "global_count": S, "kl_weight": 0.05} | options)  # type: ignore[arg-type]


def part(batch: dict[str, Tensor], rows: list[int]) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in batch.items()}


def gradient(loss: Tensor, of: Tensor) -> Tensor:
    (value,) = torch.autograd.grad(loss, of)
    return value


def test_text_loss_is_the_sequence_mean_of_token_means_by_hand() -> None:
    # Ratios 1.5 and 1.1 with A = 2, ratio .5 with A = -1: -[ (2*1.28 + 2*1.1)/2 + (-.8) ] / 2, padding unread.
    loss, _ = text_loss(
        torch.tensor([[1.5, 1.1], [0.5, math.nan]]).log(),
        torch.zeros(2, 2),
        torch.tensor([[True, True], [True, False]]),
        torch.tensor([[2.0, 2.0], [-1.0, 0.0]]),
        weight_S=torch.ones(2),
        clip_low=0.2,
        clip_high=0.28,
        global_count=2,
    )
    assert loss.item() == pytest.approx(-((2.56 + 2.2) / 2 - 0.8) / 2)


def test_text_loss_is_equation_2_written_out_token_by_token() -> None:
    batch = text_batch()
    expected = 0.0
    for s in range(S):
        terms = []
        for k in range(int(batch["mask_ST"][s].sum())):
            logp, advantage = float(batch["logp_ST"][s, k]), float(batch["advantage_ST"][s, k])
            ratio = math.exp(logp - float(batch["old_logp_ST"][s, k]))
            log_q = float(batch["reference_logp_ST"][s, k]) - logp
            kl = math.exp(log_q) - 1 - log_q
            terms.append(min(ratio * advantage, min(max(ratio, 0.8), 1.28) * advantage) - 0.05 * kl)
        expected -= math.fsum(terms) / len(terms) / S
    assert text(batch)[0].item() == pytest.approx(expected)


def test_the_gradient_by_finite_differences() -> None:
    batch = text_batch()
    assert torch.autograd.gradcheck(lambda p: text(batch | {"logp_ST": p})[0], batch["logp_ST"].requires_grad_())


def test_before_the_first_update_the_gradient_is_reinforce() -> None:
    batch = text_batch(off_policy=0.0)
    logp_ST = batch["logp_ST"].requires_grad_()
    loss, stats = text(batch, kl_weight=0.0)
    weight_ST = batch["mask_ST"] / batch["mask_ST"].sum(1, keepdim=True)
    torch.testing.assert_close(gradient(loss, logp_ST), -batch["advantage_ST"] * weight_ST / S)
    assert loss.item() == pytest.approx(-float((batch["advantage_ST"] * weight_ST).sum() / S))
    assert stats.summary()["log_ratio_max"] == 0
    assert stats.summary()["clip_low"] == stats.summary()["clip_high"] == 0


@pytest.mark.parametrize("off_policy", [0.0, 0.3])
def test_equal_rewards_give_exactly_zero_gradient(off_policy: float) -> None:
    advantage_S1 = group_advantages(torch.full((1, S), 1 / 3)).view(S, 1)
    batch = text_batch(off_policy) | {"advantage_ST": advantage_S1.expand(S, T)}
    logp_ST = batch["logp_ST"].requires_grad_()
    assert gradient(text(batch, kl_weight=0.0)[0], logp_ST).eq(0).all()


def test_nothing_old_and_no_reference_receives_a_gradient() -> None:
    batch = text_batch()
    for value in batch.values():
        if value.is_floating_point():
            value.requires_grad_()
    text(batch)[0].backward()
    assert batch["logp_ST"].grad is not None
    assert batch["old_logp_ST"].grad is batch["reference_logp_ST"].grad is None


@pytest.mark.parametrize("cuts", [[[0, 1, 2], [3, 4, 5]], [[0], [1], [2], [3], [4], [5]], [[5, 0], [4, 1, 3, 2]]])
def test_accumulation_and_sharding_do_not_change_loss_gradient_or_statistics(cuts: list[list[int]]) -> None:
    batch = text_batch()
    logp_ST = batch["logp_ST"].requires_grad_()
    whole, whole_stats = text(batch)
    parts = [text(part(batch, rows)) for rows in cuts]
    loss = torch.stack([value for value, _ in parts]).sum()
    torch.testing.assert_close(loss, whole)
    torch.testing.assert_close(gradient(loss, logp_ST), gradient(whole, logp_ST))
    stats = parts[0][1]
    for _, more in parts[1:]:
        stats = stats + more
    assert stats.summary() == pytest.approx(whole_stats.summary())


def test_padding_and_dummies_count_for_nothing_whatever_they_hold() -> None:
    batch = text_batch()
    wider = {name: torch.cat([value, value[:2]]) for name, value in batch.items()}
    for name in ("logp_ST", "old_logp_ST", "reference_logp_ST"):
        wider[name] = torch.nn.functional.pad(wider[name], (0, 3), value=-math.inf)
    wider["advantage_ST"] = torch.nn.functional.pad(wider["advantage_ST"], (0, 3))
    wider["mask_ST"] = torch.nn.functional.pad(wider["mask_ST"], (0, 3), value=False)
    wider["weight_S"] = torch.tensor([1.0] * S + [0.0] * 2)
    wider["logp_ST"].requires_grad_()
    loss, stats = text(wider)
    expected, expected_stats = text(batch)
    torch.testing.assert_close(loss, expected)
    assert stats.summary() == pytest.approx(expected_stats.summary())
    of_logp = gradient(loss, wider["logp_ST"])
    assert of_logp.isfinite().all()
    assert of_logp[S:].eq(0).all()
    assert of_logp[:, T:].eq(0).all()


def test_a_kl_without_a_reference_is_refused() -> None:
    batch = text_batch()
    del batch["reference_logp_ST"]
    with pytest.raises(ValueError, match=r"kl_weight is 0\.05, but there are no reference"):
        text(batch)
