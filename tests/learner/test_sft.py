"""Supervised fine-tuning through the engine: its losses against a loss written out example by example, and that it learns."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from configs.load import START_FOLDER, parse
from configs.schema import SftConfig
from learner.batch import SftExample
from learner.optimizer import Rank
from learner.sft import SftUpdate
from tests.learner import two_ranks
from tests.learner.tiny import make_learner, save_tiny_model
from tests.unigrpo.models.released import SEEING
from unigrpo.layout import segments_to_ids
from unigrpo.models.bagel.checkpoint import load_model, save_model
from unigrpo.models.bagel.model import Bagel
from unigrpo.types import Given, GivenPicture

GIVEN = ((5, 6), (7,))
THOUGHTS = ((8, 9, 10), None, (11,), (12, 13, 8, 9, 10))


def make_config(run_dir: Path, **changes: Any) -> SftConfig:
    save_tiny_model(run_dir / START_FOLDER)
    return parsed(run_dir, **changes)


def parsed(run_dir: Path, *, trains: Sequence[str] = ("text", "generation"), **learner: object) -> SftConfig:
    values = {"task": "sft", "steps": 40, "run_dir": run_dir} | ({"flow_weight": 2.0} if "generation" in trains else {})
    rates = {f"{group}_learning_rate": 3e-3 for group in trains}
    config = parse({**values, "learner": {"trains": trains, "flow_micro_batch": 3, **rates, **learner}}, source="test")
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
    learner = make_learner(config, rank)
    metrics = learner.update(0, [examples()])
    assert metrics["loss/text"] == pytest.approx(text.item(), rel=1e-5)
    assert metrics["loss/flow"] == pytest.approx(2.0 * flow.item(), rel=1e-5)
    assert metrics["loss"] == pytest.approx(text.item() + 2.0 * flow.item(), rel=1e-5)
    for name, group in (("text", model.text_parameters()), ("generation", model.generation_parameters())):
        norm = torch.cat([value.grad.flatten() for _, value in group if value.grad is not None]).norm().item()
        assert metrics[f"grad_norm/{name}"] == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize("trains", ["text", "generation"])
def test_one_expert_alone_is_taught_its_own_loss(trains: str, stage: int, tmp_path: Path, rank: Rank) -> None:
    config = make_config(tmp_path, trains=[trains], zero_stage=stage)
    model = load_model(tmp_path / START_FOLDER).model
    text, flow = written_out_losses(model, examples())
    terms = {"text": text, "generation": 2.0 * flow}
    terms[trains].backward()
    learner = make_learner(config, rank)
    before = {name: value.clone() for name, value in learner._engine.parameters()}
    metrics = learner.update(0, [examples()])
    losses = [terms[each].item() * (each == trains) for each in terms]
    for name, loss in zip(("loss/text", "loss/flow", "loss"), (*losses, sum(losses)), strict=True):
        assert metrics[name] == pytest.approx(loss, rel=1e-5, abs=0.0)
    own = dict(model.text_parameters() if trains == "text" else model.generation_parameters())
    norm = torch.cat([value.grad.flatten() for value in own.values() if value.grad is not None]).norm().item()
    assert metrics[f"grad_norm/{trains}"] == pytest.approx(norm, rel=1e-4)
    moved = {name for name, value in learner._engine.parameters() if not torch.equal(value, before[name])}
    assert moved <= own.keys()
    assert len(moved) > len(own) / 2


def test_without_the_painter_no_noised_picture_is_packed_nor_an_example_without_a_thought(tmp_path: Path, rank: Rank) -> None:
    learner = make_learner(make_config(tmp_path, trains=["text"]), rank)
    assert isinstance(learner._objective, SftUpdate)
    [batch] = learner._objective._pack(examples())
    assert len(batch.text.mask_SN) == 3
    assert not batch.text.packed.paints
    assert len(batch.target_NC) == 0
    nothing = [example for example in examples() if example.thought is None]
    metrics = learner.update(0, [nothing])
    assert metrics["loss"] == metrics["grad_norm/text"] == 0.0


def _one_expert(rank: Rank, folder: Path) -> dict[str, Any]:
    """One rank has all the thoughts and the only picture to look at."""
    taught = [edited(), *examples()[2:]] if rank.rank == 0 else examples()[1:2]
    batch = [taught]
    return {
        each: make_learner(parsed(folder, trains=[each], zero_stage=3, num_ranks=2), rank).update(0, batch)
        for each in ("text", "generation")
    }


def edited() -> SftExample:
    """The first example as an edit."""
    first = examples()[0]
    picture = GivenPicture(latent_LC=torch.ones(4, 16), grid_hw=(2, 2), seen_HW3=torch.full((28, 28, 3), 9, dtype=torch.uint8))
    return replace(first, given=(picture, *first.given))


@pytest.mark.slow
def test_two_ranks_keep_step_when_one_expert_is_taught(tmp_path: Path, rank: Rank) -> None:
    start = load_model(save_tiny_model(tmp_path / "tiny"))
    torch.manual_seed(1)
    config = replace(start.config, vision=SEEING.vision)
    save_model(tmp_path / START_FOLDER, Bagel(config).state_dict(), start.autoencoder, config, tokenizer_path=None)
    answers = two_ranks.run(_one_expert, tmp_path)
    whole = [(edited(), *examples()[1:])]
    for each in ("text", "generation"):
        expected = make_learner(parsed(tmp_path, trains=[each]), rank).update(0, whole)
        for answer in answers:
            for name in ("loss/text", "loss/flow", f"grad_norm/{each}"):
                assert answer[each][name] == pytest.approx(expected[name], rel=1e-5)


def test_it_learns_its_examples(tmp_path: Path, rank: Rank) -> None:
    learner = make_learner(make_config(tmp_path), rank)
    batch = [examples()]
    losses = [learner.update(step, batch) for step in range(40)]
    assert losses[-1]["loss/text"] < 0.2 * losses[0]["loss/text"]
    assert losses[-1]["loss/flow"] < 0.8 * losses[0]["loss/flow"]


def test_examples_without_any_thought_train_the_painter_alone(tmp_path: Path, rank: Rank) -> None:
    learner = make_learner(make_config(tmp_path), rank)
    batch = tuple(example for example in examples() if example.thought is None)
    metrics = learner.update(0, [batch])
    assert metrics["loss/text"] == 0.0 < metrics["loss/flow"]


def test_a_fine_tuning_run_resumes(tmp_path: Path, rank: Rank) -> None:
    config = make_config(tmp_path)
    batch = [examples()]
    learner = make_learner(config, rank)
    learner.update(0, batch)
    learner.save(1)
    expected = learner.update(1, batch)
    resumed = make_learner(config, rank)
    assert resumed.restore() == 1
    assert resumed.update(1, batch) == expected
