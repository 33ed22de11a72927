"""What is trained and what is frozen, through the learner: every group by itself, and a model that has no eyes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from configs.load import ConfigError
from configs.roles import LearnerConfig
from learner.checkpoint import check_resumable
from learner.learner import Learner, parameter_groups
from learner.optimizer import Rank
from learner.zero import KINDS
from tests.learner.tiny import make_config, make_learner, sample_step
from tests.unigrpo.models.fakes import CONFIG
from tests.unigrpo.models.released import SEEING
from unigrpo.models.bagel.checkpoint import load_model
from unigrpo.models.bagel.model import Bagel
from unigrpo.types import GivenPicture

ADVANTAGES = (1.0, -1.0, 0.5, -0.5)
KINDS_OF = {"text": "text_grpo", "generation": "flow_grpo"}


def published(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in learner._engine.parameters()}


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("trains", ["text", "generation"])
def test_one_expert_alone_is_trained(trains: str, stage: int, seeing: Path, tmp_path: Path, rank: Rank) -> None:
    config = make_config(seeing, tmp_path, KINDS_OF[trains], learner__zero_stage=stage, logging={"gradients_every": 2})
    learner = make_learner(config, rank)
    names = [name for name, _ in getattr(Bagel(load_model(seeing).config), f"{trains}_parameters")()]
    before = published(learner)
    metrics = learner.update(1, [sample_step(config, 1, ADVANTAGES)])
    assert [name for name in metrics if name.startswith(("lr/", "grad_norm/"))] == [f"grad_norm/{trains}", f"lr/{trains}"]
    moved = [name for name, value in published(learner).items() if not torch.equal(value, before[name])]
    assert set(moved) <= set(names)
    assert len(moved) > len(names) / 2
    for kind in KINDS:
        assert [name for name, _ in learner._engine.state(kind)] == names
    assert len(before) > len(names), "what is frozen is published with the rest"


def test_a_checkpoint_holds_what_is_frozen_as_the_run_started(seeing: Path, tmp_path: Path, rank: Rank) -> None:
    config = make_config(seeing, tmp_path, "flow_grpo", logging={"gradients_every": 2})
    learner = make_learner(config, rank)
    learner.update(1, [sample_step(config, 1, ADVANTAGES)])
    learner.save(2)
    folder = tmp_path / "checkpoints" / "step-000002"
    start, saved = load_file(seeing / "ema.safetensors"), load_file(folder / "policy" / "ema.safetensors")
    assert saved.keys() == start.keys()
    frozen = start.keys() - set(learner._engine.trained)
    assert all(torch.equal(saved[name], start[name]) for name in frozen)
    assert {"vit_pos_embed.pos_embed", "latent_pos_embed.pos_embed", "connector.fc1.weight"} <= frozen
    assert sorted(load_file(folder / "exp_avg.safetensors")) == sorted(learner._engine.trained)
    assert (folder / "policy" / "vocab.json").read_text() == "{}"
    assert load_model(folder / "policy").config == load_model(seeing).config

    resumed = make_learner(config, rank)
    assert resumed.restore() == 2
    for name, value in published(learner).items():
        assert torch.equal(dict(resumed._engine.parameters())[name], value)
    with pytest.raises(ConfigError, match=r"algorithm.kind was 'flow_grpo' and is 'unigrpo'"):
        check_resumable(make_config(seeing, tmp_path, logging={"gradients_every": 2}))


def test_recomputing_layers_may_change_when_a_run_is_resumed(model: Path, tmp_path: Path, rank: Rank) -> None:
    make_learner(make_config(model, tmp_path), rank).save(1)
    changed = make_config(model, tmp_path, learner__activation_checkpointing=True)
    assert make_learner(changed, rank).restore() == 1


@pytest.mark.parametrize("context_gradient", ["stop", "full"])
def test_a_stopped_context_holds_the_tower_too(context_gradient: str, seeing: Path, tmp_path: Path, rank: Rank) -> None:
    picture = GivenPicture(latent_LC=torch.ones(4, 16), grid_hw=(2, 2), seen_HW3=torch.full((28, 28, 3), 9, dtype=torch.uint8))
    config = make_config(
        seeing,
        tmp_path,
        learner__trains=["text", "generation", "vision"],
        algorithm__context_gradient=context_gradient,
        logging={"gradients_every": 2},
    )
    samples = [
        replace(sample, spans=(picture, *sample.spans), advantages=(0.0, sample.advantages[1]))
        for sample in sample_step(config, 1, ADVANTAGES)
    ]
    metrics = make_learner(config, rank).update(1, [samples])
    assert metrics["grad_norm/generation"] > 0
    reached = {name: metrics[f"grad_norm/{name}"] > 0 for name in ("text", "vision")}
    assert reached == dict.fromkeys(reached, context_gradient == "full")


def test_groups_share_out_the_parameters() -> None:
    for config, groups in ((SEEING, ("text", "generation", "vision")), (CONFIG, ("text", "generation"))):
        bagel = Bagel(config)
        names = [name for group in parameter_groups(bagel, groups).values() for name in group]
        assert sorted(names) == sorted(name for name, _ in bagel.named_parameters())


def test_eyes_that_a_model_does_not_have_cannot_be_trained(model: Path, tmp_path: Path, rank: Rank) -> None:
    message = r"learner.trains asks for vision, but the model has no vision parameters; it has text, generation\. Leave"
    with pytest.raises(ValueError, match=message):
        make_learner(make_config(model, tmp_path, learner__trains=["text", "generation", "vision"]), rank)


@pytest.mark.parametrize("trains", [(), ("text", "text")])
def test_a_run_trains_something_once(trains: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="name at least one of text, generation, vision, each once"):
        LearnerConfig.model_validate({"trains": trains})
