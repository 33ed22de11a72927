"""Supervised fine-tuning through the engine: its losses against a loss written out example by example, and that it learns."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from configs.load import START_FOLDER, parse
from configs.schema import SftConfig
from learner.batch import MiniBatch, SftExample
from learner.learner import Learner
from learner.optimizer import Rank
from tests.learner.tiny import save_tiny_model
from unigrpo.layout import segments_to_ids
from unigrpo.models.bagel.checkpoint import load_model
from unigrpo.models.bagel.model import Bagel
from unigrpo.types import Given

GIVEN = ((5, 6), (7,))
THOUGHTS = ((8, 9, 10), None, (11,), (12, 13, 8, 9, 10))


def make_config(run_dir: Path, **learner: object) -> SftConfig:
    save_tiny_model(run_dir / START_FOLDER)
    return parsed(run_dir, **learner)


def parsed(run_dir: Path, **learner: object) -> SftConfig:
    rates = {"text_learning_rate": 3e-3, "generation_learning_rate": 3e-3, "flow_micro_batch": 3, **learner}
    config = parse({"task": "sft", "steps": 40, "run_dir": run_dir, "flow_weight": 2.0, "learner": rates}, source="test")
    assert isinstance(config, SftConfig)
    return config


def examples(thoughts: Sequence[tuple[int, ...] | None] = THOUGHTS) -> list[SftExample]:
    generator = torch.Generator().manual_seed(5)
    return [
        SftExample(
            given=tuple(Given(token_ids=ids) for ids in GIVEN),
            thought=thought,
            latent_LC=torch.randn(4, 16, generator=generator),
            grid_hw=(2, 2),
            t_K=torch.rand(3, generator=generator),
            noise_KLC=torch.randn(3, 4, 16, generator=generator),
        )
        for thought in thoughts
    ]


def written_out_losses(model: Bagel, batch: list[SftExample]) -> tuple[Tensor, Tensor]:
    """Cross-entropy a thought token, squared velocity error a latent element, one example and draw at a time."""
    text, flow, num_tokens = torch.zeros(()), torch.zeros(()), 0
    for example in batch:
        segments = [*GIVEN, *([example.thought] if example.thought is not None else [])]
        ids = segments_to_ids(segments, model.config)
        hidden, context = model.prefill(torch.tensor([ids]), torch.tensor([len(ids)]))
        if example.thought is not None:
            count = len(example.thought) + 1
            logits = model.logits(hidden[0, -count - 1 : -1])
            text = text + torch.nn.functional.cross_entropy(logits, torch.tensor(ids[-count:]), reduction="sum")
            num_tokens += count
        for t, noise in zip(example.t_K, example.noise_KLC, strict=True):
            x = (1 - t) * example.latent_LC + t * noise
            v = model.velocity(x[None], t[None], context, example.grid_hw)[0]
            flow = flow + (v - (noise - example.latent_LC)).square().mean() / len(example.t_K) / len(batch)
    return text / num_tokens, flow


def test_losses_and_gradient_are_those_written_out(tmp_path: Path, rank: Rank) -> None:
    config = make_config(tmp_path)
    model = load_model(tmp_path / START_FOLDER).model
    text, flow = written_out_losses(model, examples())
    (text + 2.0 * flow).backward()
    learner = Learner(config, rank.rank, rank.world_size, rank.master_addr, rank.master_port)
    metrics = learner.update(0, [MiniBatch(samples=tuple(examples()), global_count=4)])
    assert metrics["loss/text"] == pytest.approx(text.item(), rel=1e-5)
    assert metrics["loss/flow"] == pytest.approx(2.0 * flow.item(), rel=1e-5)
    assert metrics["loss"] == pytest.approx(text.item() + 2.0 * flow.item(), rel=1e-5)
    for name, group in (("text", model.text_parameters()), ("generation", model.generation_parameters())):
        norm = torch.cat([value.grad.flatten() for _, value in group if value.grad is not None]).norm().item()
        assert metrics[f"grad_norm/{name}"] == pytest.approx(norm, rel=1e-4)


def test_it_learns_its_examples(tmp_path: Path, rank: Rank) -> None:
    learner = Learner(make_config(tmp_path), rank.rank, rank.world_size, rank.master_addr, rank.master_port)
    batch = [MiniBatch(samples=tuple(examples()), global_count=4)]
    losses = [learner.update(step, batch) for step in range(40)]
    assert losses[-1]["loss/text"] < 0.2 * losses[0]["loss/text"]
    assert losses[-1]["loss/flow"] < 0.8 * losses[0]["loss/flow"]


def test_examples_without_any_thought_train_the_painter_alone(tmp_path: Path, rank: Rank) -> None:
    learner = Learner(make_config(tmp_path), rank.rank, rank.world_size, rank.master_addr, rank.master_port)
    batch = tuple(example for example in examples() if example.thought is None)
    metrics = learner.update(0, [MiniBatch(samples=batch, global_count=1)])
    assert metrics["loss/text"] == 0.0 < metrics["loss/flow"]


def test_a_fine_tuning_run_resumes(tmp_path: Path, rank: Rank) -> None:
    config = make_config(tmp_path)
    batch = [MiniBatch(samples=tuple(examples()), global_count=4)]
    learner = Learner(config, rank.rank, rank.world_size, rank.master_addr, rank.master_port)
    learner.update(0, batch)
    learner.save(1)
    expected = learner.update(1, batch)
    resumed = Learner(config, rank.rank, rank.world_size, rank.master_addr, rank.master_port)
    assert resumed.restore() == 1
    assert resumed.update(1, batch) == expected
