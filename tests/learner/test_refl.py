"""ReFL on a real tiny Bagel with a reward model that stands beside the tests: gradient, what it reaches, and two ranks."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from configs.schema import TrainConfig
from learner.learner import Learner
from learner.optimizer import Rank
from learner.terms.refl import ReflTerm
from learner.update import Update
from tests.learner import two_ranks
from tests.learner.fakes import FakeRewardModel
from tests.learner.tiny import make_config, make_learner, sample_step, save_tiny_model
from tests.learner.transcribed import assert_same_gradient, context_of, first_gradient, own_gradient
from unigrpo.models.bagel.autoencoder import AutoEncoder, from_tokens
from unigrpo.models.bagel.checkpoint import load_model
from unigrpo.models.bagel.model import Bagel
from unigrpo.types import Sample, Trajectory

ADVANTAGES = (1.0, -1.0, 0.5, -0.5, 0.0)
NO_CLIP = 1e9
"""Of gradients."""


@pytest.fixture(autouse=True)
def reward() -> Iterator[None]:
    with patched_reward():
        yield


def patched_reward() -> Any:
    return patch("learner.terms.refl.load_reward_model", lambda kind, path: FakeRewardModel())


def refl_config(model: Path, run_dir: Path, **changes: Any) -> TrainConfig:
    """Of five denoising steps one among the last three."""
    return make_config(
        model, run_dir, "refl", **{"algorithm__late_steps": [2, 5], "learner__max_grad_norm": NO_CLIP, **changes}
    )


def prompted(samples: Sequence[Sample]) -> list[Sample]:
    """The same, each with a prompt of its own."""
    return [replace(sample, prompt=f"prompt {place}") for place, sample in enumerate(samples)]


def written_out(policy: Bagel, autoencoder: AutoEncoder, samples: Sequence[Sample]) -> tuple[Tensor, list[float]]:
    """The loss, one painting at a time: minus the score of the picture that the late step predicts; and the scores."""
    judge, scores = FakeRewardModel(), []
    for sample in samples:
        context = context_of(policy, sample.spans)
        for painting in (span for span in sample.spans if isinstance(span, Trajectory)):
            x_t, t = painting.x_WLC, painting.grid_N[painting.start]
            x_0 = x_t - float(t) * policy.velocity(x_t, t[None], context, (2, 2))
            pixels = autoencoder.decode(from_tokens(x_0, (2, 2), policy.config.latent_patch_size)) / 2 + 0.5
            scores.append(judge.score([sample.prompt], pixels.clamp(0, 1)))
    score_S = torch.cat(scores)
    return -score_S.mean(), score_S.tolist()


@pytest.mark.parametrize(
    "changes",
    [{}, {"rollout__thinks": False}, {"rollout__images_per_thought": 2}, {"learner__activation_checkpointing": True}],
)
def test_the_update_follows_the_written_out_gradient(changes: dict[str, Any], model: Path, tmp_path: Path, rank: Rank) -> None:
    config = refl_config(model, tmp_path, **changes)
    samples = prompted(sample_step(config, 0, ADVANTAGES))
    learner = make_learner(config, rank)
    metrics = learner.update(0, [samples])
    loaded = load_model(model)
    loss, scores = written_out(loaded.model, loaded.autoencoder, samples)
    got = first_gradient(learner)
    assert set(got) == {name for name, _ in loaded.model.generation_parameters()}, "the generation expert alone"
    assert_same_gradient(got, own_gradient(loaded.model, loss, list(got)))
    assert metrics["loss/refl"] == pytest.approx(float(loss.detach()), rel=1e-6)
    assert metrics["refl/score_mean"] == pytest.approx(sum(scores) / len(scores), rel=1e-6)
    assert metrics["refl/score_max"] == pytest.approx(max(scores), rel=1e-6)


def test_advantages_are_not_learned_from(model: Path, tmp_path: Path, rank: Rank) -> None:
    config = refl_config(model, tmp_path)
    losses = [
        make_learner(config, rank).update(0, [sample_step(config, 0, values)])["loss"] for values in (ADVANTAGES, [0.0] * 5)
    ]
    assert losses[0] == losses[1] < 0


def test_the_score_rises_and_neither_text_expert_nor_judges_move(model: Path, tmp_path: Path, rank: Rank) -> None:
    config = refl_config(model, tmp_path, learner__generation_learning_rate=3e-3)
    samples = prompted(sample_step(config, 0, ADVANTAGES))
    learner = make_learner(config, rank)
    before = {name: value.clone() for name, value in learner._engine.parameters()}
    scores = [learner.update(0, [samples])["refl/score_mean"] for _ in range(6)]
    assert all(later > sooner for sooner, later in pairwise(scores))
    assert scores[-1] > scores[0] + 0.01
    painter = {name for name, _ in load_model(model).model.generation_parameters()}
    assert {name for name, value in learner._engine.parameters() if not torch.equal(value, before[name])} <= painter
    term = refl_term(learner)
    assert_close(term._autoencoder.state_dict(), load_model(model).autoencoder.state_dict(), rtol=0, atol=0)
    for module in (term._autoencoder, term._reward):
        assert all(value.grad is None and not value.requires_grad for value in module.parameters())


def refl_term(learner: Learner) -> ReflTerm:
    assert isinstance(learner._objective, Update)
    [term] = learner._objective._terms
    assert isinstance(term, ReflTerm)
    return term


def test_micro_batch_sizes_do_not_change_the_update(model: Path, tmp_path: Path, rank: Rank) -> None:
    gradients = []
    for size in (2, 8):
        config = refl_config(model, tmp_path, learner__flow_micro_batch=size)
        learner = make_learner(config, rank)
        learner.update(0, [prompted(sample_step(config, 0, ADVANTAGES))])
        gradients.append(first_gradient(learner))
    for other in gradients[1:]:
        assert_same_gradient(other, gradients[0])


def test_the_last_step_predicts_the_picture_that_was_painted(model: Path, tmp_path: Path, rank: Rank) -> None:
    config = refl_config(model, tmp_path, algorithm__late_steps=[4, 5])
    samples = prompted(sample_step(config, 0, ADVANTAGES))
    metrics = make_learner(config, rank).update(0, [samples])
    autoencoder, scores = load_model(model).autoencoder, []
    for sample in samples:
        painting = sample.spans[-1]
        assert isinstance(painting, Trajectory)
        pixels = autoencoder.decode(from_tokens(painting.latent_LC[None], (2, 2), 2)) / 2 + 0.5
        scores.append(float(FakeRewardModel().score([sample.prompt], pixels.clamp(0, 1)).detach()))
    assert metrics["refl/score_mean"] == pytest.approx(sum(scores) / len(scores), rel=1e-5)


def test_pictures_that_the_reward_model_cannot_judge_are_refused_at_once(model: Path, tmp_path: Path, rank: Rank) -> None:
    with (
        patch.object(FakeRewardModel, "require_size", side_effect=ValueError("no picture of 8 pixels")),
        pytest.raises(ValueError, match="no picture of 8 pixels"),
    ):
        make_learner(refl_config(model, tmp_path), rank)


@pytest.mark.slow
def test_bfloat16_decodes_and_judges_in_float32(model: Path, tmp_path: Path, rank: Rank) -> None:
    config = refl_config(model, tmp_path, learner__zero_stage=1, learner__dtype="bfloat16")
    samples = prompted(sample_step(config, 0, ADVANTAGES))
    learner = make_learner(config, rank)
    metrics = learner.update(0, [samples])
    loaded = load_model(model)
    _, scores = written_out(loaded.model, loaded.autoencoder, samples)
    assert {value.dtype for value in refl_term(learner)._autoencoder.parameters()} == {torch.float32}
    assert metrics["refl/score_mean"] == pytest.approx(sum(scores) / len(scores), rel=1e-2)


def _unequal_shares(rank: Rank, folder: Path) -> dict[str, Any]:
    """Four samples on one rank and one on the other, which fills up with dummies."""
    with patched_reward():
        config = refl_config(
            folder / "model",
            folder / "shared",
            learner__zero_stage=3,
            learner__num_ranks=2,
            learner__flow_micro_batch=2,
            learner__activation_checkpointing=True,
        )
        samples = prompted(sample_step(config, 0, ADVANTAGES))
        learner = make_learner(config, rank)
        metrics = learner.update(0, [samples[:4] if rank.rank == 0 else samples[4:]])
        return {"metrics": metrics, "gradient": {name: value.tolist() for name, value in first_gradient(learner).items()}}


@pytest.mark.slow
def test_two_ranks_that_share_parameters_are_one(tmp_path: Path, rank: Rank) -> None:
    save_tiny_model(tmp_path / "model")
    answers = two_ranks.run(_unequal_shares, tmp_path)
    config = refl_config(tmp_path / "model", tmp_path / "alone")
    learner = make_learner(config, rank)
    expected = learner.update(0, [prompted(sample_step(config, 0, ADVANTAGES))])
    for answer in answers:
        got = {name: torch.tensor(value) for name, value in answer["gradient"].items()}
        assert_same_gradient(got, first_gradient(learner))
        for name in ("loss/refl", "refl/score_std", "refl/score_max", "grad_norm"):
            assert answer["metrics"][name] == pytest.approx(expected[name], rel=1e-5)
