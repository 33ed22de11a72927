"""FPO on a real tiny Bagel: its gradient against a loss written out painting by painting, its invariants, and two ranks."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from configs.algorithms import Fpo, UniFpo
from configs.schema import TrainConfig
from learner.learner import Learner
from learner.optimizer import Rank
from tests.learner import two_ranks
from tests.learner.tiny import make_config, make_learner, num_made, sample_step, save_tiny_model
from tests.learner.transcribed import assert_same_gradient, context_of, first_gradient, own_gradient, policy_of
from unigrpo.algo.fpo import draws_for
from unigrpo.models.bagel.checkpoint import load_model
from unigrpo.models.bagel.model import Bagel
from unigrpo.types import Sample, Span, Thought, Trajectory

ADVANTAGES = (1.0, -1.0, 0.5, -0.5, 0.0, 0.3, -0.3, 1.2)
NO_CLIP = 1e9
"""Of gradients."""


def losses_of(policy: Bagel, config: TrainConfig, sample: Sample) -> Tensor:
    """[paintings, K] flow-matching losses, one forward a draw: mean of (v - (eps - x_0))^2 at (1-t) x_0 + t eps."""
    assert isinstance(config.algorithm, Fpo | UniFpo)
    context = context_of(policy, sample.spans)
    losses = []
    for painting in (span for span in sample.spans if isinstance(span, Trajectory)):
        x_0 = painting.latent_LC
        draws = draws_for(x_0, seed=config.seed, step=0, num_draws=config.algorithm.flow_draws, shift=config.sampler.shift)
        for t, eps in zip(draws.t_K, draws.noise_KLC, strict=True):
            x_t = ((1 - t) * x_0 + t * eps).float()
            v = policy.velocity(x_t[None], t[None], context, (2, 2))[0]
            losses.append(((v - (eps - x_0)) ** 2).mean())
    return torch.stack(losses).view(-1, config.algorithm.flow_draws)


def written_out(policy: Bagel, old: Bagel, config: TrainConfig, samples: Sequence[Sample]) -> tuple[Tensor, list[float]]:
    """The loss of FPO and every painting's log-ratio."""
    total, ratios, count = torch.zeros(()), [], 0
    for sample in samples:
        with torch.no_grad():
            old_losses = losses_of(old, config, sample)
        difference = (old_losses - losses_of(policy, config, sample)).mean(1).clamp(-3, 3)
        for log_ratio, advantage in zip(difference, sample.advantages[-len(difference) :], strict=True):
            ratio = log_ratio.exp()
            total = total - torch.minimum(ratio * advantage, ratio.clamp(0.95, 1.05) * advantage)
            ratios.append(float(log_ratio.detach()))
            count += 1
    return total / count, ratios


def credited(samples: Sequence[Sample]) -> list[Sample]:
    """The same with another advantage for each thing made, as nested groups have."""
    return [
        replace(sample, advantages=tuple(value + 0.1 * place for place in range(num_made(sample.spans))))
        for sample, value in zip(samples, ADVANTAGES, strict=False)
    ]


@pytest.mark.parametrize("rollout", [{}, {"rollout__thinks": False}, {"rollout__images_per_thought": 2}])
def test_the_update_follows_the_written_out_gradient(rollout: dict[str, Any], model: Path, tmp_path: Path, rank: Rank) -> None:
    config = make_config(model, tmp_path, "fpo", learner__max_grad_norm=NO_CLIP, **rollout)
    samples = credited(sample_step(config, 0, ADVANTAGES[:5]))
    learner = make_learner(config, rank)
    metrics = learner.update(0, [samples])
    policy, old = load_model(model).model, load_model(model).model
    loss, _ = written_out(policy, old, config, samples)
    got = first_gradient(learner)
    assert set(got) == {name for name, _ in policy.generation_parameters()}
    assert_same_gradient(got, own_gradient(policy, loss, list(got)))
    assert metrics["loss/fpo"] == pytest.approx(float(loss.detach()), rel=1e-6)


def test_thoughts_and_paintings_together_move_both_experts(model: Path, tmp_path: Path, rank: Rank) -> None:
    """The text expert's gradient is the text term's plus what comes through the context, unless that is stopped."""
    learners: dict[str, Learner] = {}
    metrics: dict[str, dict[str, float]] = {}
    for reach in ("full", "stop"):
        config = make_config(model, tmp_path, "uni_fpo", learner__max_grad_norm=NO_CLIP, algorithm__context_gradient=reach)
        learners[reach] = make_learner(config, rank)
        metrics[reach] = learners[reach].update(0, [sample_step(config, 0, ADVANTAGES[:5])])
    text = make_learner(make_config(model, tmp_path, "text_grpo", learner__max_grad_norm=NO_CLIP), rank)
    text.update(0, [without_paintings(sample_step(config, 0, ADVANTAGES[:5]))])
    policy = load_model(model).model
    loss, _ = written_out(policy, load_model(model).model, config, sample_step(config, 0, ADVANTAGES[:5]))
    alone, stopped, full = first_gradient(text), first_gradient(learners["stop"]), first_gradient(learners["full"])
    assert_same_gradient({name: stopped[name] for name in alone}, alone)
    through = own_gradient(policy, loss, list(alone))
    assert max(float(value.abs().max()) for value in through.values()) > 1e-4
    assert_same_gradient({name: full[name] for name in alone}, {name: alone[name] + through[name] for name in alone})
    painter = {name: full[name] for name in full.keys() - alone.keys()}
    assert_same_gradient(painter, {name: stopped[name] for name in painter})
    for each in metrics.values():
        assert each["on_policy/fpo"] == each["on_policy/text"] == 0.0
        assert each["loss/fpo"] == pytest.approx(-sum(ADVANTAGES[:5]) / 5)


def without_paintings(samples: Sequence[Sample]) -> list[Sample]:
    return [
        Sample(
            prompt=sample.prompt,
            spans=tuple(span for span in sample.spans if not isinstance(span, Trajectory)),
            advantages=sample.advantages[:1],
        )
        for sample in samples
    ]


def test_ratios_start_at_one_and_then_are_those_of_the_losses(model: Path, tmp_path: Path, rank: Rank) -> None:
    config = make_config(model, tmp_path, "fpo", algorithm__ppo_epochs=2)
    samples = sample_step(config, 0, ADVANTAGES)
    twice = make_learner(config, rank).update(0, [samples])
    once = make_learner(make_config(model, tmp_path, "fpo"), rank)
    first = once.update(0, [samples])
    assert twice["on_policy/fpo"] == first["fpo/log_ratio_max"] == first["fpo/clip_fraction"] == 0.0
    loss, ratios = written_out(policy_of(once, model), load_model(model).model, config, samples)
    assert twice["fpo/log_ratio_max"] == pytest.approx(max(map(abs, ratios)), rel=1e-4)
    assert twice["fpo/log_ratio_mean"] == pytest.approx(sum(ratios) / len(ratios) / 2, rel=1e-3)
    assert twice["loss/fpo"] == pytest.approx((first["loss/fpo"] + float(loss.detach())) / 2, rel=1e-5)
    assert max(map(abs, ratios)) > 1e-3


def test_a_second_mini_batch_is_held_against_the_weights_before_the_first(model: Path, tmp_path: Path, rank: Rank) -> None:
    samples = sample_step(make_config(model, tmp_path, "fpo"), 0, ADVANTAGES)
    once = make_learner(make_config(model, tmp_path, "fpo"), rank)
    first = once.update(0, [samples[:4]])
    config = make_config(model, tmp_path, "fpo", algorithm__mini_batches=2)
    both = make_learner(config, rank).update(0, [samples[:4], samples[4:]])
    loss, ratios = written_out(policy_of(once, model), load_model(model).model, config, samples[4:])
    assert both["fpo/log_ratio_max"] == pytest.approx(max(map(abs, ratios)), rel=1e-4)
    assert both["loss/fpo"] == pytest.approx((first["loss/fpo"] + float(loss.detach())) / 2, rel=1e-5)
    assert max(map(abs, ratios)) > 1e-3


def test_draws_change_with_the_step_and_the_seed(model: Path, tmp_path: Path, rank: Rank) -> None:
    config = make_config(model, tmp_path, "fpo", learner__generation_learning_rate=0.0)
    again = make_config(model, tmp_path, "fpo", learner__generation_learning_rate=0.0, seed=4)
    samples = sample_step(config, 0, ADVANTAGES)
    learner = make_learner(config, rank)
    told = [learner.update(0, [samples])["fpo/cfm"] for _ in range(2)]
    assert told[0] == told[1]
    assert make_learner(again, rank).update(0, [samples])["fpo/cfm"] != told[0]
    later = [replace(sample, spans=tuple(made_at(1, span) for span in sample.spans)) for sample in samples]
    assert learner.update(1, [later])["fpo/cfm"] != told[0]


def made_at(step: int, span: Span) -> Span:
    return replace(span, policy_version=step) if isinstance(span, Thought | Trajectory) else span


def test_micro_batch_sizes_and_the_order_of_samples_do_not_change_the_update(model: Path, tmp_path: Path, rank: Rank) -> None:
    gradients = []
    for size, reverse in ((3, True), (8, False)):
        config = make_config(model, tmp_path, "fpo", learner__flow_micro_batch=size, learner__max_grad_norm=NO_CLIP)
        samples = sample_step(config, 0, ADVANTAGES)
        learner = make_learner(config, rank)
        learner.update(0, [samples[::-1] if reverse else samples])
        gradients.append(first_gradient(learner))
    for other in gradients[1:]:
        assert_same_gradient(other, gradients[0])


def test_equal_rewards_move_nothing(model: Path, tmp_path: Path, rank: Rank) -> None:
    config = make_config(model, tmp_path, "fpo")
    metrics = make_learner(config, rank).update(0, [sample_step(config, 0, [0.0] * 4)])
    assert metrics["grad_norm"] == 0.0
    assert metrics["advantage/zero"] == 1.0


@pytest.mark.slow
def test_bfloat16_starts_at_a_ratio_of_exactly_one(model: Path, tmp_path: Path, rank: Rank) -> None:
    config = make_config(model, tmp_path, "fpo", learner__zero_stage=1, learner__dtype="bfloat16")
    learner = make_learner(config, rank)
    for step in range(2):
        assert learner.update(step, [sample_step(config, step, ADVANTAGES)])["on_policy/fpo"] == 0.0


def _unequal_shares(rank: Rank, folder: Path) -> dict[str, Any]:
    """Seven samples on one rank and one on the other, which fills up with dummies."""
    config = make_config(
        folder / "model",
        folder / "shared",
        "uni_fpo",
        learner__zero_stage=3,
        learner__num_ranks=2,
        learner__max_grad_norm=NO_CLIP,
    )
    samples = sample_step(config, 0, ADVANTAGES)
    learner = make_learner(config, rank)
    metrics = learner.update(0, [samples[:7] if rank.rank == 0 else samples[7:]])
    return {"metrics": metrics, "gradient": {name: value.tolist() for name, value in first_gradient(learner).items()}}


@pytest.mark.slow
def test_two_ranks_that_share_parameters_are_one(tmp_path: Path, rank: Rank) -> None:
    save_tiny_model(tmp_path / "model")
    answers = two_ranks.run(_unequal_shares, tmp_path)
    config = make_config(tmp_path / "model", tmp_path / "alone", "uni_fpo", learner__max_grad_norm=NO_CLIP)
    learner = make_learner(config, rank)
    expected = learner.update(0, [sample_step(config, 0, ADVANTAGES)])
    for answer in answers:
        got = {name: torch.tensor(value) for name, value in answer["gradient"].items()}
        assert_same_gradient(got, first_gradient(learner))
        assert answer["metrics"]["on_policy/fpo"] == answer["metrics"]["on_policy/text"] == 0.0
        for name in ("loss/fpo", "fpo/cfm", "loss/text", "grad_norm"):
            assert answer["metrics"][name] == pytest.approx(expected[name], rel=1e-5)
