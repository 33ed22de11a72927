"""The UniGRPO update on a real tiny Bagel: its invariants, and its gradient against a loss written out sample by sample."""

import math
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from learner.learner import Learner
from learner.optimizer import Rank
from learner.update import Update
from learner.window import Window
from tests.learner.tiny import make_config, make_learner, sample_step
from tests.learner.written_out import written_out_loss
from tests.unigrpo.models.fakes import hash_of
from unigrpo.buckets import unpack
from unigrpo.models.bagel.checkpoint import load_model
from unigrpo.types import Sample

ADVANTAGES = (1.0, -1.0, 0.5, -0.5, 0.0, 0.3, -0.3, 1.2)
GUIDANCE = {"text_scale": 3.0, "interval": [0.9, 1.0]}
EVERYTHING = {
    "rollout__images_per_thought": 2,
    "algorithm__guidance": GUIDANCE,
    "algorithm__window__placement": "sample",
}


def published(learner: Learner) -> dict[str, Tensor]:
    return {name: tensor.clone() for bucket in learner.publish(1) for name, tensor in unpack(bucket)}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("unigrpo", {"algorithm__flow_weight": 3.0}),
        ("unigrpo", {"algorithm__window__placement": "sample"}),
        ("unigrpo", {"rollout__images_per_thought": 2}),
        ("unigrpo", {"algorithm__guidance": GUIDANCE, "algorithm__window__size": 3}),
        ("unigrpo", {"algorithm__guidance": GUIDANCE | {"renorm": "channel", "renorm_min": 0.9}}),
        ("flow_grpo", {"rollout__thinks": False}),
        ("text_grpo", {}),
    ],
)
def test_the_first_update_follows_the_written_out_gradient(
    kind: str, changes: dict[str, Any], model: Path, tmp_path: Path, rank: Rank
) -> None:
    config = make_config(model, tmp_path, kind, **changes)
    samples = credited(sample_step(config, 0, ADVANTAGES))
    policy, old = load_model(model).model, load_model(model).model
    written_out_loss(policy, config, samples, old).backward()
    learner = make_learner(config, rank)
    metrics = learner.update(0, [samples])
    moments = dict(learner._engine.state("exp_avg"))
    experts = {"text": policy.text_parameters(), "generation": policy.generation_parameters()}
    for expert in config.trains:
        reached = [(value.grad, moments[name]) for name, value in experts[expert] if value.grad is not None]
        gradient, moment = (torch.cat([each.flatten() for each in of]) for of in zip(*reached, strict=True))
        assert metrics[f"grad_norm/{expert}"] == pytest.approx(gradient.norm().item(), rel=1e-4)
        assert_close(moment / moment.norm(), gradient / gradient.norm(), rtol=1e-3, atol=1e-5)
    assert all(value == 0.0 for name, value in metrics.items() if name.startswith("on_policy/"))
    assert metrics.get("mismatch/flow", 0.0) < 1e-6


def credited(samples: Sequence[Sample]) -> list[Sample]:
    """The same, every span that the policy made with an advantage of its own."""
    return [
        replace(sample, advantages=tuple(value - 0.4 * place for place, value in enumerate(sample.advantages)))
        for sample in samples
    ]


def test_before_the_first_update_every_ratio_is_exactly_one(model: Path, tmp_path: Path, rank: Rank) -> None:
    config = make_config(model, tmp_path, algorithm__ppo_epochs=1)
    metrics = make_learner(config, rank).update(0, [sample_step(config, 0, ADVANTAGES)])
    assert metrics["on_policy/text"] == metrics["on_policy/flow"] == 0.0
    assert metrics["text/clip_fraction"] == metrics["flow/clip_fraction"] == 0.0
    assert metrics["mismatch/text"] < 1e-4
    assert metrics["mismatch/flow"] < 1e-6
    assert metrics["loss/text"] == pytest.approx(-sum(ADVANTAGES) / len(ADVANTAGES))
    assert metrics["loss/flow"] == pytest.approx(-sum(ADVANTAGES) / len(ADVANTAGES))


@pytest.mark.parametrize(("term", "asked"), [("text", "token_logp"), ("flow", "velocity")])
def test_ratios_that_are_noise_before_the_first_update_are_refused(
    term: str, asked: str, model: Path, tmp_path: Path, rank: Rank, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = make_learner(config := make_config(model, tmp_path), rank)
    exact = getattr(module := import_module(f"learner.terms.{term}"), asked)

    def otherwise_without_gradient(*given: Any) -> Tensor:
        answer: Tensor = exact(*given)
        return answer if torch.is_grad_enabled() else answer * 1.5

    monkeypatch.setattr(module, asked, otherwise_without_gradient)
    with pytest.raises(ArithmeticError, match=rf"first update of the step \d+.\d+% of the {term} ratios lie beyond their clip"):
        learner.update(0, [sample_step(config, 0, ADVANTAGES)])


def test_the_velocity_penalty_vanishes_at_the_reference_and_grows(model: Path, tmp_path: Path, rank: Rank) -> None:
    config = make_config(model, tmp_path)
    learner = make_learner(config, rank)
    first = learner.update(0, [sample_step(config, 0, ADVANTAGES)])
    second = learner.update(1, [sample_step(config, 1, ADVANTAGES)])
    assert first["loss/regulariser"] < 1e-12
    assert first["term_norm/regulariser/generation"] < 1e-7 < first["term_norm/flow/generation"]
    assert second["loss/regulariser"] > 1e-8


def test_equal_rewards_move_nothing(model: Path, tmp_path: Path, rank: Rank) -> None:
    config = make_config(model, tmp_path, algorithm__regulariser={"kind": "none"})
    learner = make_learner(config, rank)
    before = published(learner)
    metrics = learner.update(0, [sample_step(config, 0, [0.0] * 4)])
    assert metrics["grad_norm"] == 0.0
    assert metrics["advantage/zero"] == 1.0
    assert_close(published(learner), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("kind", "stage"),
    [
        ("unigrpo", 0),
        ("uni_fpo", 1),
        pytest.param("unigrpo", 2, marks=pytest.mark.slow),
        pytest.param("unigrpo", 3, marks=pytest.mark.slow),
        pytest.param("uni_fpo", 3, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_context_leaves_the_text_expert_to_the_text_term(
    kind: str, stage: int, model: Path, tmp_path: Path, rank: Rank
) -> None:
    samples = [
        replace(sample, advantages=(0.0, sample.advantages[1]))
        for sample in sample_step(make_config(model, tmp_path, kind), 0, ADVANTAGES)
    ]
    norms = {}
    for mode in ("full", "stop"):
        config = make_config(model, tmp_path, kind, learner__zero_stage=stage, algorithm__context_gradient=mode)
        norms[mode] = make_learner(config, rank).update(0, [samples])
    assert norms["stop"]["grad_norm/text"] == 0.0 < norms["full"]["grad_norm/text"]
    assert norms["stop"]["grad_norm/generation"] == pytest.approx(norms["full"]["grad_norm/generation"], rel=1e-6)


def test_the_reference_stays_frozen(model: Path, tmp_path: Path, rank: Rank) -> None:
    config = make_config(model, tmp_path)
    learner = make_learner(config, rank)
    assert isinstance(learner._objective, Update)
    reference = learner._objective._terms[1].reference
    assert reference is not None
    before = published(learner)
    learner.update(0, [sample_step(config, 0, ADVANTAGES)])
    assert hash_of(reference) == hash_of(load_model(model).model)
    assert any(not torch.equal(value, before[name]) for name, value in published(learner).items())


def test_epochs_and_mini_batches_each_take_an_update(model: Path, tmp_path: Path, rank: Rank) -> None:
    config = make_config(model, tmp_path, algorithm__ppo_epochs=2, algorithm__mini_batches=2)
    samples = sample_step(config, 0, ADVANTAGES)
    learner = make_learner(config, rank)
    metrics = learner.update(0, [samples[:4], samples[4:]])
    assert learner._engine.updates == 4
    assert metrics["on_policy/text"] == metrics["on_policy/flow"] == 0.0
    assert metrics["text/log_ratio_max"] > 0


@pytest.mark.parametrize("changes", [{}, pytest.param(EVERYTHING, marks=pytest.mark.slow)])
def test_micro_batch_sizes_do_not_change_the_update(changes: dict[str, Any], model: Path, tmp_path: Path, rank: Rank) -> None:
    samples = credited(sample_step(make_config(model, tmp_path, **changes), 0, ADVANTAGES))
    results = []
    for text, flow in ((1, 1), (3, 2), (8, 16)):
        config = make_config(model, tmp_path, learner__text_micro_batch=text, learner__flow_micro_batch=flow, **changes)
        learner = make_learner(config, rank)
        results.append((learner.update(0, [samples]), published(learner)))
    for metrics, parameters in results[1:]:
        for name in ("loss/text", "loss/flow", "grad_norm/text", "grad_norm/generation"):
            assert metrics[name] == pytest.approx(results[0][0][name], rel=1e-5)
        assert_close(parameters, results[0][1], rtol=0, atol=1e-5)


def test_text_kl_is_measured_against_the_reference(model: Path, tmp_path: Path, rank: Rank) -> None:
    config = make_config(model, tmp_path, algorithm__text_kl=0.1)
    learner = make_learner(config, rank)
    first = learner.update(0, [sample_step(config, 0, ADVANTAGES)])
    second = learner.update(1, [sample_step(config, 1, ADVANTAGES)])
    assert first["text/kl"] < 1e-12 < second["text/kl"]


def test_without_a_regulariser_the_reference_answers_for_tokens_alone(model: Path, tmp_path: Path, rank: Rank) -> None:
    config = make_config(model, tmp_path, algorithm__text_kl=0.1, algorithm__regulariser={"kind": "none"})
    metrics = make_learner(config, rank).update(0, [sample_step(config, 0, ADVANTAGES)])
    assert metrics["text/kl"] < 1e-12
    assert metrics["loss/regulariser"] == 0.0
    assert "flow/velocity_shift_rms" not in metrics


def test_latent_kl_weighs_each_step(model: Path, tmp_path: Path, rank: Rank) -> None:
    config = make_config(model, tmp_path, algorithm__regulariser={"kind": "latent_kl", "weight": 2.0})
    learner = make_learner(config, rank)
    learner.update(0, [sample_step(config, 0, [0.0] * 3 + [1.0])])
    metrics = learner.update(1, [sample_step(config, 1, ADVANTAGES)])
    window = Window.of(config, 1)
    [start] = window.starts
    expected = 0.0
    for w in range(2):
        t, t_next = window.times(start)[w : w + 2].tolist()
        h, s = t - t_next, window.sigma(start)[w].item()
        mean_shift = metrics[f"flow/k{start + w}/velocity_shift_rms"] * h * (1 + s**2 * (1 - t) / (2 * t))
        expected += 2.0 * math.sqrt(262_144 / 64) * mean_shift**2 / (2 * s**2) / 2
    assert metrics["loss/regulariser"] == pytest.approx(expected, rel=1e-6)


def test_clip_and_weight_are_resolved_for_the_latent_size(model: Path, tmp_path: Path, rank: Rank) -> None:
    config = make_config(model, tmp_path, algorithm__flow_clip=1e-6, algorithm__regulariser={"kind": "velocity_mse"})
    metrics = make_learner(config, rank).update(0, [sample_step(config, 0, ADVANTAGES)])
    scale = math.sqrt(262_144 / 64)  # 2x2 tokens of 16 channels
    assert metrics["flow/clip"] == pytest.approx(1e-6 * scale)
    assert metrics["flow/regulariser_weight"] == pytest.approx(1.5e-5 * scale)


def test_a_refused_sample_leaves_the_policy_as_it_was(model: Path, tmp_path: Path, rank: Rank) -> None:
    config = make_config(model, tmp_path)
    learner = make_learner(config, rank)
    before = published(learner)
    with pytest.raises(ValueError, match="thought's policy version is 1, but the learner's own is 0"):
        learner.update(0, [sample_step(config, 1, ADVANTAGES)])
    assert_close(published(learner), before, rtol=0, atol=0)
    learner.update(0, [sample_step(config, 0, ADVANTAGES)])


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 3])
def test_bfloat16_starts_at_a_ratio_of_exactly_one(stage: int, model: Path, tmp_path: Path, rank: Rank) -> None:
    config = make_config(model, tmp_path, learner__zero_stage=stage, learner__dtype="bfloat16")
    learner = make_learner(config, rank)
    for step in range(2):
        metrics = learner.update(step, [sample_step(config, step, ADVANTAGES)])
        assert metrics["on_policy/text"] == metrics["on_policy/flow"] == 0.0
    assert {value.dtype for value in published(learner).values()} == {torch.bfloat16}


@pytest.mark.parametrize("stage", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_logits_taken_in_pieces_give_the_same_update(
    stage: int, model: Path, tmp_path: Path, rank: Rank, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(model, tmp_path, learner__zero_stage=stage)
    samples = [sample_step(config, 0, ADVANTAGES)]
    at_once = make_learner(config, rank).update(0, samples)
    monkeypatch.setattr("learner.policy.LOGITS_AT_ONCE", 300)
    in_pieces = make_learner(config, rank).update(0, samples)
    assert in_pieces["grad_norm/text"] == pytest.approx(at_once["grad_norm/text"], rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "trained", "term", "other"), [("text_grpo", "text", "text", "flow"), ("flow_grpo", "generation", "flow", "text")]
)
def test_one_expert_alone_learns_from_its_own_term_alone(
    kind: str, trained: str, term: str, other: str, model: Path, tmp_path: Path, rank: Rank
) -> None:
    config = make_config(model, tmp_path, kind)
    learner = make_learner(config, rank)
    before = published(learner)
    metrics = learner.update(0, [sample_step(config, 0, ADVANTAGES)])
    assert metrics[f"loss/{term}"] != 0.0
    assert f"{term}/clip_fraction" in metrics
    assert not any(name.startswith(other) or name.endswith(other) for name in metrics)
    policy = load_model(model).model
    own = {name for name, _ in (policy.text_parameters() if trained == "text" else policy.generation_parameters())}
    moved = {name for name, tensor in published(learner).items() if not torch.equal(tensor, before[name])}
    assert moved <= own
    assert len(moved) > len(own) // 2
